"""launch/grow.py: a growth from directory to directory."""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from typing import Any

from data_prep.hub import find_directory
from pipeline.command import status_of
from pipeline.flops.ledger import LEDGER, Ledger
from pipeline.growth.listing import listing, promise, table
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.runs.card import CARD, Known, known_of_run, model_card, run_of, standing
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
        ),
        foreseen=arguments.dry_run,
    )
    if arguments.dry_run:
        print(listing(growth))
        return
    print(promise(growth), flush=True)
    # What the source cost the grown model has cost too.
    ledger = read_inherited(growth.source.directory)
    record = {} if ledger is None else {"ledger": ledger.to_json()}
    print(table(growth.execute(lambda certificate: _beside(growth, certificate, ledger), record), arguments.out))


def _beside(growth: OfflineGrowth, certificate: dict[str, Any], ledger: Ledger | None) -> dict[str, str]:
    """Return the card and the ledger of a Hugging Face directory by their names; a checkpoint has none."""
    source, request = growth.source.directory, growth.request
    if request.format != "hf":
        return {}
    run = run_of(source)
    command = shlex.join(["python", *sys.argv])
    known = (growth.target, certificate["dtype"], command)
    if run is None:
        told = Known(*known, ledger=ledger, source=str(request.source))
    else:
        told = known_of_run(run, *known, ledger, *standing(run, source))
    changed = certificate["source"] != certificate["target"]
    told = replace(
        told,
        certificates=[*told.certificates, *([certificate] if changed else [])],
        remarks=[*told.remarks, *growth.source.remarks],
    )
    return {CARD: model_card(told)} | ({} if ledger is None else {LEDGER: json.dumps(ledger.to_json(), indent=2) + "\n"})


def work(arguments: argparse.Namespace) -> int:
    """Grow, or say what would be done; return the exit status."""
    return status_of(lambda: run(arguments))
