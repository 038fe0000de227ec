"""What a run leaves: its models as Hugging Face directories, and its summary."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import torch

from data_prep.tokenizers.loading import Tokenizer
from pipeline.common.files import whole_directory
from pipeline.common.progress import Meter
from pipeline.families import graph_of
from pipeline.flops.ledger import Ledger, write_ledger
from pipeline.growth.generation import write_generation_config
from pipeline.growth.huggingface_sink import write_huggingface
from pipeline.growth.integrity import digests_of
from pipeline.growth.probe import elements
from pipeline.growth.state import Source
from pipeline.growth.tokenizer_beside import write_tokenizer_length
from pipeline.report.card import CARD, known_of_run, model_card
from pipeline.runs.records import FileRecord, LedgerRecord, SpeedRecord, SummaryRecord
from pipeline.runs.steps import missing_steps
from pipeline.training import distributed
from pipeline.training.directory.recorded_settings import recorded_lengths
from pipeline.training.loop.context import LoopContext
from pipeline.training.monitoring.utilization import peak_memory, speeds
from pipeline.training.run.context import RunContext

_COMMAND = "deepspeed launch/pretrain.py --ds_config ds_config.json --recipe recipe.yaml"
"""How a run is done again: with the two files that it leaves of its settings."""


def export_model(run: RunContext, loop: LoopContext, source: Source, directory: Path) -> None:
    """Leave a model as a Hugging Face directory; the source's is there already where the run goes on."""

    def work() -> None:
        if directory == run.directory.model or not directory.is_dir():
            growths = 0 if directory == run.directory.source_model else len(run.prepared.growths)
            ledger, step = loop.state.ledger, loop.state.step
            known = known_of_run(run.directory, source.config, "float32", _COMMAND, ledger, growths, step)
            card = model_card(replace(known, remarks=run.source_remarks))
            export(source, directory, run.prepared.data.tokenizer, ledger, card)

    loop.watchdog.on_first_rank(work)


def export(source: Source, directory: Path, tokenizer: Tokenizer, ledger: Ledger, card: str) -> None:
    """Write a model, its tokenizer, its card and the FLOPs that it cost into `directory`, which appears whole; one rank's work.

    Raises UserError where the disk is full.
    """
    with whole_directory(directory) as partial:
        size = elements(source.state) * torch.float32.itemsize
        with Meter(f"{directory}: writing", size) as meter:
            write_huggingface(partial, source.config, source.state, torch.float32, progress=meter.advance)
        tokenizer.write(partial)
        write_tokenizer_length(partial, source.config)
        write_generation_config(partial, source.config, partial)
        write_ledger(partial, ledger)
        (partial / CARD).write_text(card, encoding="utf-8")


def summarize(run: RunContext, loop: LoopContext, final: float) -> SummaryRecord:
    """Return the summary of a run whose last held-out loss is `final`; a collective call."""
    directory, state, data = run.directory, loop.state, run.prepared.data
    peaks = distributed.gathered(peak_memory())
    first = run.certificates[0]
    in_training = first["in_training"]
    assert in_training is not None, "measured by the run itself"
    graph = graph_of(run.prepared.growths[-1].target)
    steps = distributed.on_first_rank(loop.records.metrics.read)
    return {
        "run": run.data["run"],
        "family": first["family"],
        "growths": run.certificates,
        "losses": {
            "unigram": data.unigram_entropy(loop.mixes.weights[loop.mixes.own.name]),
            "source": in_training["source_loss"],
            "grown": in_training["grown_loss"],
            "final": final,
        },
        "parameters": {"total": graph.parameters, "active": graph.active_parameters},
        "steps": state.step,
        "lengths": recorded_lengths(run.recipe),
        "tokens": state.tokens,
        "flops": cast(LedgerRecord, state.ledger.to_json()),
        "seconds": state.seconds,
        "tokens_per_second": state.tokens / state.seconds,
        "speeds": cast(dict[str, SpeedRecord], speeds(steps)),
        "missing_steps": [list(gap) for gap in missing_steps(steps, state.step)],
        "peak": loop.records.device.words,
        "peak_memory": peaks,
        "paths": {
            "model": str(directory.model),
            "checkpoints": str(directory.checkpoints),
            "certificates": str(directory.certificate(1).parent),
            "metrics": str(directory.metrics),
            "data": str(data.directory),
        },
        "files": loop.watchdog.on_first_rank(lambda: _exported([directory.model, directory.source_model])),
    }


def _exported(folders: list[Path]) -> dict[str, dict[str, FileRecord]]:
    """What each exported file is, by folder; the card is for people to write on."""
    return {
        folder.name: {name: cast(FileRecord, asdict(digest)) for name, digest in digests_of(folder, leave_out=[CARD]).items()}
        for folder in folders
        if folder.is_dir()
    }
