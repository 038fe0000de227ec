"""A growth from directory to directory."""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from functools import partial
from typing import Any, cast

from pipeline.common.command import typed_command
from pipeline.common.hub import find_directory
from pipeline.common.quiet import status_of
from pipeline.flops.ledger import LEDGER
from pipeline.growth.listing import expected, listing, table
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.report.card import CARD, Known, growths_and_step, known_of_run, model_card, run_of
from pipeline.runs.records import CertificateRecord
from pipeline.training.directory.inherited import read_inherited


def run(arguments: argparse.Namespace) -> None:
    """Grow, or describe what would be done; raises UserError where the input is wrong."""
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
            untrusted=arguments.foreign,
            config=arguments.config,
            tokenizer=arguments.tokenizer,
        ),
        preview=arguments.dry_run,
    )
    # Before the source is read, for hours where it is large: a damaged record of its run is refused.
    known = known_model(growth, shlex.join([*typed_command(), *sys.argv[1:]]))
    if arguments.dry_run:
        print(listing(growth))
        return
    print(expected(growth), flush=True)
    print(table(execute(growth, known), arguments.out))


def known_model(growth: OfflineGrowth, command: str) -> Known | None:
    """Return what is known of the model before it is grown by `command`; None of a checkpoint, which has no card.

    Raises UserError where a record of the run that the source is of is damaged.
    """
    if growth.request.format != "hf":
        return None
    source = growth.source.directory
    known = (growth.target, str(growth.dtype).removeprefix("torch."), command)
    ledger, run = read_inherited(source), run_of(source)
    if run is None:
        model = Known(*known, ledger=ledger, source=growth.request.called)
    else:
        model = known_of_run(run, *known, ledger, *growths_and_step(run, source))
    return replace(model, remarks=[*model.remarks, *growth.source.remarks, *growth.plan.form.remarks])


def execute(growth: OfflineGrowth, known: Known | None) -> dict[str, Any]:
    """Grow, write the model with its certificate, card and ledger, and return the certificate; raises as `growth.execute`."""
    # What the source cost the grown model has cost too.
    ledger = read_inherited(growth.source.directory) if known is None else known.ledger
    record = {} if ledger is None else {"ledger": ledger.to_json()}
    return growth.execute(lambda certificate: _beside(known, certificate), record)


def _beside(known: Known | None, certificate: dict[str, Any]) -> dict[str, str]:
    """Return the card and the ledger of a Hugging Face directory by their names; a checkpoint has none."""
    if known is None:
        return {}
    changed = certificate["source"] != certificate["target"]
    card = model_card(
        replace(known, certificates=[*known.certificates, *([cast(CertificateRecord, certificate)] if changed else [])])
    )
    ledger = {} if known.ledger is None else {LEDGER: json.dumps(known.ledger.to_json(), indent=2) + "\n"}
    return {CARD: card} | ledger


work = partial(status_of, run)
"""Grow, or describe what would be done; return the exit status."""
