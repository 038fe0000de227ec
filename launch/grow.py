"""Grow a pre-trained model into a larger one, from directory to directory, without a GPU.

python launch/grow.py --source DIR [--target FILE.json|key=value,...] --format hf|zero3 --out DIR [--dry_run]
"""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from data_prep.command import OneSentenceParser
from data_prep.config import validate
from data_prep.errors import UserError
from data_prep.hub import find_directory
from pipeline.command import status_of
from pipeline.flops.ledger import LEDGER, Ledger
from pipeline.growth.listing import listing, promise, table
from pipeline.growth.offline import DTYPES, OfflineGrowth, Request
from pipeline.recipe import GrowthConfig, TargetConfig
from pipeline.runs.card import CARD, Known, known_of_run, model_card, run_of, standing
from pipeline.training.inherited import read_inherited


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = OneSentenceParser(
        description=__doc__.splitlines()[0],
        epilog="The flags under `growth` are the recipe's growth section, which pipeline/recipe/growth.py describes.",
    )
    parser.add_argument(
        "--source", required=True, help="the model: a Hugging Face directory or hub name, a run, a DeepSpeed checkpoint"
    )
    parser.add_argument("--revision", help="a branch, tag or commit of the source on the hub (default: main)")
    parser.add_argument(
        "--config", type=Path, help="the source's config.json, or its directory, where a DeepSpeed checkpoint comes without"
    )
    parser.add_argument(
        "--target", default="", help="a Hugging Face config.json, or the sizes that change as key=value,... (default: none)"
    )
    parser.add_argument("--seed", type=int, default=1234, help="of random maps, noise and new values (default: %(default)s)")
    parser.add_argument(
        "--format", choices=["hf", "zero3"], required=True, help="a Hugging Face directory or a ZeRO-3 checkpoint"
    )
    parser.add_argument("--dtype", choices=list(DTYPES), help="of the weights (default: the source's)")
    parser.add_argument("--world_size", type=int, help="ranks of the ZeRO-3 checkpoint; in a dry run, of training (default: 1)")
    parser.add_argument("--out", type=Path, required=True, help="a directory that is not there yet")
    parser.add_argument("--foreign", action="store_true", help="take a checkpoint that has lost its files.json")
    parser.add_argument(
        "--dry_run", action="store_true", help="say what would be done, and end; of the source, config.json is enough"
    )
    growth = parser.add_argument_group("growth")
    for name, field in GrowthConfig.model_fields.items():
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None
        if field.annotation is bool:
            choices = ("true", "false")
        growth.add_argument(f"--{name}", choices=choices, metavar=None if choices else "X", help=f"(default: {field.default})")
    return parser.parse_args()


def read_growth(arguments: argparse.Namespace) -> GrowthConfig:
    """Return the growth section that the flags spell."""
    given = {name: getattr(arguments, name) for name in GrowthConfig.model_fields}
    content: dict[str, Any] = {}
    for name, text in given.items():
        if name == "layers" and text is not None and not text.startswith("["):
            text = f"[{text}]"
        try:
            content |= {} if text is None else {name: yaml.safe_load(text)}
        except yaml.YAMLError:
            raise UserError(f"--{name}: {text!r} is no value; write a number, a word or a list as in [0,1,1]") from None
    return validate(GrowthConfig, content, "command line")


def read_target(text: str) -> TargetConfig | Path:
    """Return the sizes that --target spells, or the file that it names."""
    if text.endswith(".json"):
        return Path(text)
    # A recipe's default is to train without dropout; nothing is trained here.
    content: dict[str, Any] = {"dropout": None}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"--target: {part!r} is neither key=value nor a .json file; write for instance hidden_size=1024")
        content[key.strip()] = value.strip()
    return validate(TargetConfig, content, "--target")


def run(arguments: argparse.Namespace) -> None:
    """Grow, or say what would be done; raises UserError where the input is wrong."""
    if arguments.world_size is not None and arguments.world_size < 1:
        raise UserError(f"--world_size: {arguments.world_size} ranks hold nothing; name 1 or more")
    growth = OfflineGrowth(
        Request(
            source=find_directory(
                arguments.source,
                arguments.revision,
                f"--source: {arguments.source!r} is no directory here",
                weights=not arguments.dry_run,
            ),
            target=read_target(arguments.target),
            growth=read_growth(arguments),
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


def main() -> int:
    """Do what the command line asks; return the exit status."""
    arguments = parse()
    return status_of(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
