"""The certificate of a growth in a run, made beside the first steps of the grown model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.common.background import Beside
from pipeline.common.files import write_json
from pipeline.growth.certificate import certify
from pipeline.growth.probe import compare
from pipeline.growth.state import Source
from pipeline.runs.records import CertificateRecord
from pipeline.training.background import begin_on_first_rank
from pipeline.training.monitoring.watchdog import Watchdog, watched
from pipeline.training.preparation.preparation import Growth


class Certifying:
    """What is left of a growth's certificate when its engine has been measured and is to be trained.

    The source is measured behind the first step, whose model is no longer needed for that. The comparison in float64, on the
    host of the first rank, goes on in a thread while steps run. `finish` is to be called before anything that outlasts the
    process depends on the grown model.
    """

    def __init__(
        self,
        path: Path,
        growth: Growth,
        source: Source,
        digest: Beside[str] | None,
        in_training: Callable[[], dict[str, Any]],
        remarks: tuple[str, ...],
        watchdog: Watchdog,
        certified: Callable[[CertificateRecord], None],
    ) -> None:
        """`digest` is the source's, on rank 0; `in_training` measures the growth in the engine's precision, a collective call.

        `certified` is told the certificate, on every rank, once it is written to `path`.
        """
        self._path = path
        self._growth = growth
        self._source = source
        self._digest = digest
        self._measure = in_training
        self._remarks = remarks
        self._watchdog = watchdog
        self._certified = certified
        self._in_training: dict[str, Any] | None = None
        self._compared: Beside[dict[str, Any]] | None = None
        self._finished = False

    @property
    def begun(self) -> bool:
        """Whether the source is measured."""
        return self._in_training is not None

    def begin(self) -> None:
        """Measure the source, and have it compared with the grown model, unless that was begun; a collective call."""
        if not self.begun:
            growth = self._growth
            # Not while a model is built: DeepSpeed partitions what any thread constructs by then.
            self._compared = begin_on_first_rank(
                lambda tick: compare(replace(self._source, state=watched(self._source.state, tick)), growth.plan, growth.target)
            )
            self._in_training = self._measure()

    def finish(self) -> None:
        """Write the certificate, unless that was done; a collective call.

        Raises RuntimeError on every rank where a growth that is to preserve the function was seen not to.
        """
        if self._finished:
            return
        self.begin()
        certificate = self._watchdog.on_first_rank(self._write)
        self._finished = True
        self._certified(certificate)
        if not certificate["measured_agrees"]:
            moved = certificate["measured"]["max_logit_difference"], self._in_training["max_logit_difference"]
            raise RuntimeError(
                f"{self._path}: this growth should preserve the function and moves a logit by {moved[0]:.2g} "
                f"in float64, by {moved[1]:.2g} in {self._in_training['dtype']}; please report it"
            )

    def close(self) -> None:
        """Wait for what was begun, whatever came of it: another model must not be built meanwhile."""
        if self._compared is not None:
            self._compared.wait(self._watchdog.beat)

    def _write(self) -> CertificateRecord:
        certificate = certify(
            self._growth.plan,
            str(self._source.directory),
            self._digest.result(self._watchdog.beat),
            self._compared.result(self._watchdog.beat),
            self._in_training,
            remarks=self._remarks,
        )
        write_json(self._path, certificate)
        return certificate
