"""The certificate of a growth in a run, made beside the first steps of the grown model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from pipeline.common.background import Background
from pipeline.common.files import write_json
from pipeline.growth.certificate import certify
from pipeline.growth.probe import compare
from pipeline.growth.state import Source
from pipeline.runs.records import CertificateRecord
from pipeline.training import distributed
from pipeline.training.certifying.measure import Text, measure_all, measure_grown, measure_growth
from pipeline.training.engine import TrainedModel
from pipeline.training.loop.loop import Certification
from pipeline.training.loop.records import Records
from pipeline.training.monitoring.watchdog import Watchdog
from pipeline.training.preparation.models import Growth


def measured_before_training(
    growth: Growth, source: Source, grown: TrainedModel, text: Text, dtype: torch.dtype, records: Records, step: int
) -> Callable[[], dict[str, Any]]:
    """Evaluate the grown model before its first step; return what measures the growth beside the next; both collective calls.

    `dtype` is the one that the engine computes in.
    """
    plan, whole = growth.plan, None
    if plan.tokenizer is not None:
        # What is trained later is measured on all of the text.
        whole = measure_all(grown, text)
        text = text.carried(plan.carried, plan.target.vocab_size)
    after = measure_grown(grown, plan.carried, text)
    distributed.on_first_rank(lambda: records.evaluations.keep(lambda record: record["stage"] != growth.phase.name))
    records.evaluation(step, growth.phase.name, whole or after.heldout)
    return partial(measure_growth, source, plan.carried, after, text, dtype, grown.module.config._attn_implementation)


@dataclass(kw_only=True)
class GrowthCertification(Certification):
    """What is left of a growth's certificate when its engine has been measured and is to be trained.

    The source is measured behind the first step, whose model is no longer needed for that. The comparison in float64, on the
    host of the first rank, goes on in a thread while steps run.
    """

    path: Path
    """Of the certificate."""
    growth: Growth
    source: Source
    digest: Background[str] | None
    """Of the source, on rank 0."""
    remarks: tuple[str, ...]
    watchdog: Watchdog
    certified: Callable[[CertificateRecord], None]
    """Given the certificate, on every rank, once it is written."""
    measure: Callable[[], dict[str, Any]]
    """Measures the growth in the engine's precision, a collective call."""

    def __post_init__(self) -> None:
        self._in_training: dict[str, Any] | None = None
        self._compared: Background[dict[str, Any]] | None = None
        self._finished = False

    @property
    def due(self) -> bool:
        """Whether the source is still to be measured."""
        return self._in_training is None

    def begin(self) -> None:
        """Measure the source, and have it compared with the grown model, unless that was started; a collective call."""
        if self.due:
            source, growth = self.source, self.growth
            # Not while a model is built: DeepSpeed partitions what any thread constructs by then.
            self._compared = distributed.begin_on_first_rank(lambda: compare(source, growth.plan, growth.target))
            self._in_training = self.measure()

    def finish(self) -> None:
        """Write the certificate, unless that was done; a collective call.

        Raises RuntimeError on every rank where a growth that is to preserve the function was seen not to.
        """
        if self._finished:
            return
        self.begin()
        certificate = self.watchdog.on_first_rank(self._write)
        self._finished = True
        self.certified(certificate)
        if not certificate["measured_agrees"]:
            in_training = certificate["in_training"]
            assert in_training is not None
            moved = certificate["measured"]["max_logit_difference"], in_training["max_logit_difference"]
            raise RuntimeError(
                f"{self.path}: this growth should preserve the function and moves a logit by {moved[0]:.2g} "
                f"in float64, by {moved[1]:.2g} in {in_training['dtype']}; please report it"
            )

    def close(self) -> None:
        """Wait for what was started, however it ends: another model must not be built meanwhile."""
        if self._compared is not None:
            self._compared.wait()

    def _write(self) -> CertificateRecord:
        assert self.digest is not None and self._compared is not None, "the first rank's"
        measured = self.digest.result(), self._compared.result(), self._in_training
        certificate = certify(self.growth.plan, str(self.source.directory), *measured, remarks=self.remarks)
        write_json(self.path, certificate)
        return cast(CertificateRecord, certificate)
