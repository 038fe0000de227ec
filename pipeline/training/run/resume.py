"""Where a run goes on: its directory held, its checkpoint found or branched off, its records cut back to that."""

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.files import HeldError, locked, write_json
from pipeline.common.keyed import DRAWS
from pipeline.growth.integrity import Digest, difference
from pipeline.recipe import Recipe
from pipeline.runs import JsonLines, StepLines
from pipeline.runs.cutting import cut_back
from pipeline.runs.records import CertificateRecord, DataRecord, EvaluationRecord, ScoreRecord, SummaryRecord
from pipeline.runs.steps import missing_words
from pipeline.training import distributed
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.directory.inherited import read_inherited
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.ds_config import sequence_parallel_size
from pipeline.training.loop.guard import GuardStoppedError
from pipeline.training.loop.records import Records
from pipeline.training.loop.steps import RewindError
from pipeline.training.monitoring.monitors import Monitors
from pipeline.training.monitoring.progress import Progress
from pipeline.training.monitoring.utilization import Device
from pipeline.training.plan.workload import Workload
from pipeline.training.preparation.preparation import Preparation, prepare_run
from pipeline.training.run.context import RunContext
from pipeline.training.sequence_parallel import SequenceGroup

logger = logging.getLogger(__name__)

_DYING_SECONDS = 300
"""How long the tasks of a job's last attempt may hold the run directory, on a node that Slurm gave up."""
_POLL_SECONDS = 1.0


def hold(directory: RunDirectory, stack: ExitStack) -> None:
    """Hold the run directory; where Slurm started the job again, an attempt that is still dying is waited for."""
    deadline = time.monotonic() + (_DYING_SECONDS if distributed.restarts() else 0)
    waiting = False
    while True:
        try:
            stack.enter_context(locked(directory.lock, wait=False))
            return
        except HeldError as error:
            if time.monotonic() >= deadline:
                raise
            if not waiting:
                logger.info(f"waiting up to {_DYING_SECONDS} s for what is left of this job's last attempt: {error}")
            waiting = True
            time.sleep(_POLL_SECONDS)


def finished(directory: RunDirectory, recipe: Recipe, saved: TrainState | None) -> SummaryRecord | None:
    """Return the summary of a run that is finished, its certificates in order; one rank's work."""
    summary = directory.finished_summary(recipe, saved)
    if summary is not None:
        growths = summary["growths"]
        directory.certified(len(growths), growths, str(directory.summary))
    return summary


def is_whole(directory: RunDirectory, summary: SummaryRecord, saved: TrainState | None) -> bool:
    """Whether all that a finished run exported is as it was written, a collective call; says what is to be made again.

    The source's is not, and that is only said. Raises UserError where the model's is to be and there is no checkpoint
    to export it from.
    """
    # Older versions did not write down what they had exported.
    for name, files in summary.get("files", {directory.model.name: {}}).items():
        folder, digests = directory.path / name, {file: Digest(**digest) for file, digest in files.items()}
        own = difference(folder, digests, distributed.rank(), distributed.world_size())
        fault = distributed.first_found(own if folder.is_dir() else f"{folder}: missing")
        if fault is None:
            continue
        if folder == directory.source_model:
            # Checkpoints of the source are gone by then, and nothing of the run needs its export.
            logger.warning(f"{fault}; it is not made again")
            continue
        if saved is None:
            raise UserError(
                f"{fault}, and there is no checkpoint any more to export it from; put it back, or name another run_dir"
            )
        logger.info(f"{fault}; the model is exported again from the checkpoint {saved.tag}")
        return False
    return True


def begin(
    recipe: Recipe,
    ds_config: dict[str, Any],
    directory: RunDirectory,
    checkpoints: Checkpoints,
    saved: TrainState | None,
) -> RunContext:
    """Return the run, prepared from a checkpoint on where one is `saved`, its directory being its own; a collective call."""
    prepared = prepare_run(recipe, ds_config, directory, saved)
    sequences = SequenceGroup.joined(sequence_parallel_size(ds_config))
    claimed = distributed.on_first_rank(lambda: _claim(directory, recipe, ds_config, prepared, saved))
    return RunContext(recipe, ds_config, directory, checkpoints, prepared, sequences, *claimed)


def _claim(
    directory: RunDirectory, recipe: Recipe, ds_config: dict[str, Any], prepared: Preparation, saved: TrainState | None
) -> tuple[DataRecord, list[CertificateRecord]]:
    """Make the directory this run's; return what data.json says and the certificates of its growths; one rank's work."""
    data = directory.claim(
        recipe,
        ds_config,
        {
            "prepared": str(prepared.data.directory),
            "fingerprint": prepared.data.manifest.fingerprint,
            "weights": prepared.mixes.weights,
            "steps": {plan.stage.name: plan.end - plan.begin for plan in prepared.training_plan.stages},
            "draws": DRAWS,
        },
    )
    known = [] if saved is None or saved.run is None else saved.run["certificates"]
    growths, origin = (0, "") if saved is None else (saved.phase, f"the checkpoint {saved.tag}")
    certificates = directory.certified(growths, known, origin)
    if saved is None and (steps := directory.steps()):
        logger.warning(f"there is no checkpoint: the run starts again from step 0, and {steps:,} steps on record are lost")
    return data, certificates


def restored(directory: RunDirectory, origin: Path | None, saved: TrainState | None) -> TrainState:
    """Return how far the run has come by a checkpoint; `origin` is the given source's directory."""
    state = TrainState() if saved is None else saved.copy()
    rewound = distributed.on_first_rank(directory.rewound_record)
    # Later checkpoints say it themselves.
    if rewound is not None and rewound["step"] == state.step:
        state.rewinds = rewound["rewinds"]
        state.samples |= rewound["samples"]
    # A source may have trained on, or be gone, when the run that began from it is resumed.
    if origin is not None and saved is None:
        state.ledger.inherit(str(origin), distributed.on_first_rank(lambda: read_inherited(origin)))
    return state


def rewound(directory: RunDirectory, state: TrainState, most: int, rewinds: int, rewind: RewindError) -> TrainState:
    """Return a state restored from a checkpoint as that of a run which went back to it, past the data that it had read by then.

    `rewinds` is how often it had gone back before; raises GuardStoppedError where that is as often as it may (`most`).
    """
    if rewinds >= most:
        raise GuardStoppedError(rewind.seen, rewind.step, rewinds)
    state.samples[rewind.mix] = rewind.samples
    state.rewinds = rewinds + 1
    # The checkpoint does not say it: started again, the run would go the same way for ever.
    record = {"step": state.step, "rewinds": state.rewinds, "samples": state.samples}
    distributed.on_first_rank(lambda: write_json(directory.rewound, record))
    logger.warning(
        f"step {rewind.step}: {rewind.seen}; going back to step {state.step}, and past the data in between "
        f"({state.rewinds} of {most} times)"
    )
    return state


def open_records(run: RunContext, state: TrainState) -> Records:
    """Return the run's records, cut back to a state; what is cut off is booked in its ledger as waste."""
    directory, prepared, step = run.directory, run.prepared, state.step
    records = Records(
        StepLines(directory.metrics),
        JsonLines(directory.evaluations, EvaluationRecord),
        JsonLines(directory.scores, ScoreRecord),
        Progress(Workload(run.recipe, prepared.training_plan, prepared.config), step, shown=distributed.rank() == 0),
        Device.of_all_ranks(run.dtype, run.recipe.flops.peak_tflops),
        Monitors.opened(run.ds_config, directory.path, step),
    )
    state.ledger.wasted, gaps = distributed.on_first_rank(lambda: cut_back(directory, step))
    if gaps:
        logger.warning(f"{directory.metrics}: lacks the steps {missing_words(gaps)}; no curve and no speed has them")
    return records
