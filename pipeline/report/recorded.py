"""A run as its directory records it, whether it has ended or not."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pipeline.common.errors import UserError
from pipeline.evaluation.scores import Score, read_scores
from pipeline.families import Sizes, scratch_config, sizes_of, target_config
from pipeline.flops.counts import StepFlops
from pipeline.flops.ledger import Ledger, Line
from pipeline.growth.sources import checkpoint_in
from pipeline.growth.zero_checkpoint import PROGRESS
from pipeline.recipe import SOURCE_STAGE, Recipe
from pipeline.runs import JsonLines, RunPaths, StepLines, records
from pipeline.runs.steps import missing_steps

QUANTITIES = ("flops", "tokens", "steps", "seconds")
"""What a run spends; FLOPs are executed ones."""

Spent = dict[str, float]


class HeldOut(NamedTuple):
    """An evaluation whose loss is a number."""

    step: int
    stage: str
    loss: float


@dataclass(frozen=True)
class RecordedRun:
    """What one run directory holds."""

    path: Path
    recipe: Recipe
    ds_config: records.DsConfigRecord | None
    data: records.DataRecord | None
    steps: list[records.StepRecord]
    evaluations: list[HeldOut]
    """Those whose loss is a number."""
    unscored: list[int]
    """Steps of those whose loss is not a number."""
    lost: list[records.StepRecord]
    """Steps that were taken and lost, each once."""
    rewinds: int
    summary: records.SummaryRecord | None
    certificates: list[records.CertificateRecord]
    scores: list[Score]
    ledger: Ledger | None
    ledger_step: int | None
    """The step up to which the ledger counts."""
    transformers: str | None
    """The version that wrote the model."""

    @property
    def ended(self) -> bool:
        """Whether the run wrote its summary, and has not been lengthened since."""
        return self.summary is not None and self.summary["steps"] >= self.last_step

    @property
    def last_step(self) -> int:
        """The last step on record."""
        return self.steps[-1]["step"] if self.steps else 0

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Gaps in the steps on record: the first and the last step of each."""
        return missing_steps(self.steps, self.last_step if self.summary is None else max(self.last_step, self.summary["steps"]))

    @cached_property
    def planned(self) -> list[Sizes] | None:
        """Sizes of the source and of each model grown after it, by the recipe; None where the source is a path.

        A vocabulary that only the tokenizer knows counts as 1, and is kept by growth.
        """
        model = self.recipe.source.model
        if model is None:
            return None
        configs = [scratch_config(model, 1, 0, self.recipe.data.sequence_length)]
        for phase in self.recipe.grown_phases:
            configs.append(target_config(configs[-1], phase.target, growth=phase.growth))
        return [sizes_of(config) for config in configs]

    @property
    def from_scratch(self) -> bool:
        """Whether nothing is grown: the source is trained here, at the target's own sizes."""
        return self.planned is not None and len(set(self.planned)) == 1

    @cached_property
    def _by_step(self) -> dict[int, Spent]:
        spent: dict[int, Spent] = {0: dict.fromkeys(QUANTITIES, 0)}
        seconds = itertools.accumulate(record["seconds"] for record in self.steps)
        for one, until in zip(self.steps, seconds, strict=True):
            step = one["step"]
            spent[step] = {"flops": one["flops_total"], "tokens": one["tokens"], "steps": step, "seconds": until}
        return spent

    def spent(self, step: int) -> Spent:
        """What this run had spent by a step on record, its source's training here included; raises KeyError for others."""
        return self._by_step[step]

    def on_record(self, evaluations: Iterable[HeldOut]) -> list[HeldOut]:
        """Those of evaluations of which it is known what had been spent."""
        return [record for record in evaluations if record.step in self._by_step]

    @cached_property
    def source_spent(self) -> Spent:
        """What was spent on the source here; nothing where the source is the target itself."""
        if self.from_scratch:
            return self._by_step[0]
        return self._by_step[max((record["step"] for record in self.steps if record["stage"] == SOURCE_STAGE), default=0)]

    @property
    def inherited_flops(self) -> int | None:
        """Executed FLOPs of given sources, without waste; None where they are not known."""
        if self.recipe.source.path is None:
            return 0
        if self.ledger is None or not self.ledger.inherited:
            return None
        lines = self.ledger.inherited.values()
        return sum(line.flops.executed_total for line in lines) if all(line.complete for line in lines) else None

    @property
    def inherited(self) -> Line | None:
        """What given sources cost, as far as it is known; None before the first checkpoint."""
        if self.ledger is None:
            return None
        # Older versions booked nothing where nothing was known.
        return self.ledger.sources if self.ledger.inherited else Line(StepFlops(), 0, complete=False)

    @property
    def wasted(self) -> int:
        """Executed FLOPs of steps that were lost here."""
        return sum(record["flops_executed"] for record in self.lost)

    @property
    def inherited_waste(self) -> int:
        """Executed FLOPs of steps that given sources had lost."""
        return 0 if self.ledger is None else sum(line.wasted for line in self.ledger.inherited.values())

    @property
    def skipped(self) -> list[int]:
        """Steps that were skipped, or whose loss was not a number."""
        return [record["step"] for record in self.steps if record.get("skipped") or record["loss"] is None]

    @cached_property
    def target_evaluations(self) -> list[HeldOut]:
        """Evaluations of the model that the recipe ends with: from the last growth on; of a run from scratch all."""
        if self.from_scratch:
            return self.grown_evaluations
        last = self.recipe.phases[-1]
        names = {last.name, *(stage.name for stage in last.stages)}
        return self.on_record(record for record in self.evaluations if record.stage in names)

    @property
    def grown_evaluations(self) -> list[HeldOut]:
        """Evaluations of what was grown, intermediate models among them."""
        if self.from_scratch:
            # What an untrained model makes of the text is no result.
            return self.on_record(record for record in self.evaluations if record.step > 0)
        return self.on_record(record for record in self.evaluations if record.stage != SOURCE_STAGE)

    @property
    def final_loss(self) -> float | None:
        """The last held-out loss of the model that the recipe ends with; of a run that has ended, the one of its last step.

        None where there is none, or where that one is not a number.
        """
        if not self.target_evaluations:
            return None
        last = self.target_evaluations[-1]
        return None if self.summary is not None and self.ended and last.step != self.summary["steps"] else last.loss

    @cached_property
    def stages(self) -> list[tuple[str, int, int]]:
        """Each stage with steps on record: name, the step on record before its first, its last."""
        found: dict[str, tuple[int, int]] = {}
        before = 0
        for record in self.steps:
            begin, _ = found.get(record["stage"], (before, 0))
            found[record["stage"]] = begin, record["step"]
            before = record["step"]
        return [(name, begin, end) for name, (begin, end) in found.items()]

    @property
    def growth_points(self) -> list[HeldOut]:
        """Evaluations right after a growth."""
        if self.from_scratch:
            return []
        names = {phase.name for phase in self.recipe.grown_phases}
        return self.on_record(record for record in self.evaluations if record.stage in names)


def read_run(path: Path) -> RecordedRun:
    """Return what a run directory holds; raises UserError where it is not one, or where a file of it cannot be read."""
    paths = RunPaths(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such directory; name a run directory, which launch/pretrain.py writes")
    if not paths.recipe.is_file():
        raise UserError(f"{path}: not a run directory, having no {paths.recipe.name}; name one that launch/pretrain.py wrote")
    recipe = records.read_recipe(paths)
    evaluations = JsonLines(paths.evaluations, records.EvaluationRecord).read()
    summary = records.read_record(
        paths.summary, records.SummaryRecord, "put it back, or start the run again, which writes it again"
    )
    ledger, ledger_step = _ledger(path, summary)
    rewound = records.read_record(paths.rewound, records.RewoundRecord)
    return RecordedRun(
        path=path,
        recipe=recipe,
        ds_config=records.read_record(paths.ds_config, records.DsConfigRecord),
        data=records.read_record(paths.data, records.DataRecord),
        steps=StepLines(paths.metrics).read(),
        evaluations=[HeldOut(one["step"], one["stage"], one["loss"]) for one in evaluations if one["loss"] is not None],
        unscored=[record["step"] for record in evaluations if record["loss"] is None],
        lost=list({json.dumps(record): record for record in JsonLines(paths.lost, records.StepRecord).read()}.values()),
        rewinds=0 if rewound is None else rewound["rewinds"],
        summary=summary,
        certificates=records.read_certificates(paths),
        scores=read_scores(paths.scores),
        ledger=ledger,
        ledger_step=ledger_step,
        transformers=(records.read_record(paths.model / "config.json", records.ModelRecord) or {}).get("transformers_version"),
    )


def _ledger(path: Path, summary: records.SummaryRecord | None) -> tuple[Ledger | None, int | None]:
    """Return the ledger of the run's end, or of its newest checkpoint, and the step up to which it counts."""
    checkpoint = checkpoint_in(path)
    progress = None
    if summary is None and checkpoint is not None:
        progress = records.read_record(checkpoint / PROGRESS, records.ProgressRecord)
    try:
        if summary is not None:
            return Ledger.from_json(dict(summary["flops"])), summary["steps"]
        return (None, None) if progress is None else (Ledger.from_json(progress["ledger"]), progress["step"])
    except ValueError as error:
        raise UserError(
            f"{path}: the ledger of FLOPs cannot be read ({error}); put the files back as the run wrote them"
        ) from None
