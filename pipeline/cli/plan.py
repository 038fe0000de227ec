"""Find the schedule of sizes (grow when, from what, how) that reaches a target's loss for the least compute.

growth-plan --recipe scratch.yaml --target num_hidden_layers=12 --tokens 1e9 --pilot 2% --run --out plans/mine
growth-plan --add runs/ --record runs/record.jsonl
growth-plan --compare plans/mine/plan.json runs/one runs/two --record runs/record.jsonl
"""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path

from pipeline.common.starting import start


def parse() -> argparse.Namespace:
    """Read the command line and the recipes that it names; raises UserError."""
    from pipeline.common.errors import UserError
    from pipeline.recipe import load_recipe

    arguments = _parser().parse_args()
    if arguments.add is not None:
        if arguments.record is None or len(arguments.record) != 1:
            raise UserError("--add: name the record to add to, one file, by --record")
        return arguments
    if arguments.compare is not None:
        if len(arguments.compare) < 2:
            raise UserError("--compare: name the plan.json, and the runs that it predicted")
        return arguments
    if arguments.tokens is None:
        raise UserError("--tokens: not given; name the tokens that the target would be trained on from scratch, as 5e6")
    if arguments.pilot is not None and arguments.out is None:
        raise UserError("--pilot: name by --out where recipes and runs of pilots go")
    if arguments.run and arguments.pilot is None:
        raise UserError("--run goes with --pilot, whose runs it starts")
    arguments.loaded = load_recipe(arguments.recipe, arguments.overrides)
    arguments.sizes = sizes(arguments.target)
    arguments.predicted = {path: load_recipe(path, []) for path in arguments.predict or []}
    return arguments


def _parser() -> argparse.ArgumentParser:
    from pipeline.common.built_in import find_file
    from pipeline.common.command import OneSentenceParser

    parser = OneSentenceParser(
        description=__doc__.splitlines()[0],
        epilog="docs/explanation/planning.md says what law is fitted, on what, and what it is worth.",
    )
    add = parser.add_argument
    add(
        "--recipe",
        type=find_file,
        default="launch/recipes/scratch.yaml",
        help="of the target from scratch: its text, batch, optimizer, schedule (default: %(default)s)",
    )
    add("--target", default="", metavar="KEY=VALUE,...", help="sizes other than the recipe's, as num_hidden_layers=12")
    add("--tokens", type=number, metavar="D", help="the tokens that it would be trained on from scratch")
    add("--source", type=Path, metavar="DIR", help="a finished run whose model is the first size")
    add(
        "--record",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="runs to fit the law on, as --add writes them (default: this project's own)",
    )
    add("--predict", type=find_file, nargs="+", metavar="RECIPE", help="also say what the law predicts for these recipes")
    add("--out", type=Path, metavar="DIR", help="where to write plan.md, plan.html, plan.json and recipe.yaml")
    pilots = parser.add_argument_group("pilot runs, on the target's own text")
    pilots.add_argument("--pilot", type=share, metavar="SHARE", help="plan them, for 2%% of scratch's compute for instance")
    pilots.add_argument("--run", action="store_true", help="start those that have not ended, and plan by them")
    pilots.add_argument(
        "--ds_config", type=find_file, default="ds_configs/zero0.json", help="DeepSpeed's file for them (default: %(default)s)"
    )
    record = parser.add_argument_group("the record")
    record.add_argument(
        "--add", type=Path, nargs="+", metavar="RUN", help="add finished runs, or folders of them, to --record, and end"
    )
    record.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="PLAN.json RUN",
        help="hold finished runs, or those of a record, against the plan.json that predicted them, by the savings that "
        "--record measures, and end",
    )
    add("overrides", nargs="*", metavar="key.sub=value", help="override a key of the recipe")
    return parser


def number(text: str) -> int:
    """Return the whole number above 0 that `5e6` spells; raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < 1e18:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens; write it as 5e6 or 5000000")
    return int(value)


def share(text: str) -> float:
    """Return the share that `2%` or `0.02` spells; raises ArgumentTypeError."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1; write it as 2% or 0.02")
    return value


def sizes(text: str) -> dict[str, object]:
    """Return the keys of a model that --target spells; raises UserError."""
    from pipeline.common.errors import UserError
    from pipeline.recipe import ModelConfig
    from pipeline.recipe.models import OWN_KEYS

    found: dict[str, object] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not equals:
            raise UserError(f"--target: {part!r} is not key=value; write for instance num_hidden_layers=12")
        key = OWN_KEYS.get(key, key)
        if key not in ModelConfig.model_fields:
            raise UserError(f"--target: unknown key {key!r}; name one of {', '.join(ModelConfig.model_fields)}")
        if key in found:
            raise UserError(f"--target: {key} is named twice; leave one out")
        found[key] = int(value) if re.fullmatch(r"\d+", value) else value
    return found


main = partial(start, parse, "pipeline.commands.plan")
"""Do what the command line asks; return the exit status."""

if __name__ == "__main__":
    sys.exit(main())
