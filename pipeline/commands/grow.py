"""launch/grow.py: a growth from directory to directory."""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from typing import Any

from pipeline.common.hub import find_directory
from pipeline.common.quiet import status_of
from pipeline.flops.ledger import LEDGER
from pipeline.growth.listing import listing, promise, table
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.report.card import CARD, Known, known_of_run, model_card, run_of, standing
from pipeline.training.inherited import read_inherited


def run(arguments: argparse.Namespace) -> None:
    """Grow, or say what would be done; raises UserError where the input is wrong."""
    growth = OfflineGrowth(
        Request(
            source=find_directory(
                arguments.source,
                arguments.revision,
                f"--source: {arguments.source!r} is no directory here",
                weights=not arguments.dry_run,
            ),
            target=arguments.target,
            growth=arguments.growth,
            seed=arguments.seed,
            format=arguments.format,
            dtype=arguments.dtype,
            world_size=arguments.world_size,
            out=arguments.out,
            foreign=arguments.foreign,
            config=arguments.config,
            tokenizer=arguments.tokenizer,
        ),
        foreseen=arguments.dry_run,
    )
    # Before the source is read, for hours where it is large: a damaged record of its run is refused.
    known = _known(growth) if arguments.format == "hf" else None
    if arguments.dry_run:
        print(listing(growth))
        return
    print(promise(growth), flush=True)
    # What the source cost the grown model has cost too.
    ledger = read_inherited(growth.source.directory) if known is None else known.ledger
    record = {} if ledger is None else {"ledger": ledger.to_json()}
    print(table(growth.execute(lambda certificate: _beside(known, certificate), record), arguments.out))


def _known(growth: OfflineGrowth) -> Known:
    """Return what is known of the model before it is grown."""
    source = growth.source.directory
    known = (growth.target, str(growth.dtype).removeprefix("torch."), shlex.join(["python", *sys.argv]))
    ledger, run = read_inherited(source), run_of(source)
    if run is None:
        told = Known(*known, ledger=ledger, source=str(growth.request.source))
    else:
        told = known_of_run(run, *known, ledger, *standing(run, source))
    return replace(told, remarks=[*told.remarks, *growth.source.remarks, *growth.plan.remarks])


def _beside(known: Known | None, certificate: dict[str, Any]) -> dict[str, str]:
    """Return the card and the ledger of a Hugging Face directory by their names; a checkpoint has none."""
    if known is None:
        return {}
    changed = certificate["source"] != certificate["target"]
    card = model_card(replace(known, certificates=[*known.certificates, *([certificate] if changed else [])]))
    ledger = {} if known.ledger is None else {LEDGER: json.dumps(known.ledger.to_json(), indent=2) + "\n"}
    return {CARD: card} | ledger


def work(arguments: argparse.Namespace) -> int:
    """Grow, or say what would be done; return the exit status."""
    return status_of(lambda: run(arguments))
