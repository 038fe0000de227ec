"""Grow a pre-trained model into a larger one, from directory to directory, without a GPU.

growth-grow --source DIR [--target FILE.json|key=value,...] --format hf|zero3 --out DIR [--dry_run]
"""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pipeline.common.starting import start

if TYPE_CHECKING:
    from pipeline.recipe import GrowthConfig, TargetConfig

DTYPES = ("float64", "float32", "bfloat16", "float16")


def parse() -> argparse.Namespace:
    """Read the command line, `growth` and `target` as sections of a recipe; raises UserError."""
    from pipeline.common.command import OneSentenceParser
    from pipeline.common.errors import UserError
    from pipeline.recipe import GrowthConfig

    parser = OneSentenceParser(
        description=__doc__.splitlines()[0],
        epilog="The flags under `growth` are the recipe's growth section, which pipeline/recipe/growth.py describes.",
    )
    add = parser.add_argument
    add("--source", required=True, help="the model: a Hugging Face directory or hub name, a run, a DeepSpeed checkpoint")
    add("--revision", help="a branch, tag or commit of the source on the hub (default: main)")
    add("--config", type=Path, help="the source's config.json, or its directory, for a DeepSpeed checkpoint that holds none")
    add("--target", default="", help="a Hugging Face config.json, or the sizes that change as key=value,... (default: none)")
    add("--tokenizer", help="the target's tokenizer, a directory or hub name, where it is another than the source's")
    add("--seed", type=int, default=1234, help="of random maps, noise and new values (default: %(default)s)")
    add("--format", choices=["hf", "zero3"], required=True, help="a Hugging Face directory or a ZeRO-3 checkpoint")
    add("--dtype", choices=DTYPES, help="of the weights (default: the source's)")
    add("--world_size", type=int, help="ranks of the ZeRO-3 checkpoint; in a dry run, of training (default: 1)")
    add("--out", type=Path, help="a directory that is not there yet; a dry run needs none")
    add("--foreign", action="store_true", help="take a checkpoint that has lost its files.json")
    add("--dry_run", action="store_true", help="say what would be done, and end; of the source, config.json is enough")
    growth = parser.add_argument_group("growth")
    for name, field in GrowthConfig.model_fields.items():
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None
        if field.annotation is bool:
            choices = ("true", "false")
        described = field.description or ""
        # Of other options the description says what happens without the option.
        if isinstance(field.default, str | float | int | list):
            described += f" (default: {str(field.default).lower()})"
        growth.add_argument(f"--{name}", choices=choices, metavar=None if choices else "X", help=described.replace("%", "%%"))
    arguments = parser.parse_args()
    if arguments.world_size is not None and arguments.world_size < 1:
        raise UserError(f"--world_size: {arguments.world_size} ranks hold nothing; name 1 or more")
    if arguments.out is None and not arguments.dry_run:
        raise UserError("--out: not given; name a directory to write to, or add --dry_run")
    arguments.growth = read_growth(arguments)
    arguments.target = read_target(arguments.target, arguments.tokenizer)
    return arguments


def read_growth(arguments: argparse.Namespace) -> GrowthConfig:
    """Return the growth section that the flags spell; raises UserError."""
    from pipeline.common.config import validate
    from pipeline.recipe import GrowthConfig

    given = {name: getattr(arguments, name) for name in GrowthConfig.model_fields}
    content: dict[str, Any] = {}
    for name, text in given.items():
        if name in ("layers", "silent") and text is not None and not text.startswith("["):
            text = f"[{text}]"
        content |= {} if text is None else {name: _value(f"--{name}", text)}
    return validate(GrowthConfig, content, "command line")


def _value(where: str, text: str) -> Any:
    """Return what a text means in YAML; raises UserError."""
    import yaml

    from pipeline.common.errors import UserError

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{where}: {text!r} is no value; write a number, a word or a list as in [0,1,1]") from None


def read_target(text: str, tokenizer: str | None) -> TargetConfig | Path:
    """Return the sizes that --target spells, with the tokenizer, or the file that it names; raises UserError."""
    from pipeline.common.config import validate
    from pipeline.common.errors import UserError
    from pipeline.recipe import TargetConfig

    if text.endswith(".json"):
        return Path(text)
    # A recipe's default is to train without dropout; nothing is trained here.
    content: dict[str, Any] = {"dropout": None, "tokenizer": tokenizer}
    # A comma within brackets is of a list.
    for part in filter(None, re.split(r",(?![^\[]*\])", text)):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"--target: {part!r} is neither key=value nor a .json file; write for instance hidden_size=1024")
        if key.strip() == "tokenizer":
            raise UserError("--target: tokenizer is no size; name it by --tokenizer")
        # rope_parameters.rope_theta=1e6 is a key of a mapping.
        *outer, name = key.strip().split(".")
        section = content
        for each in outer:
            section = section.setdefault(each, {})
            if not isinstance(section, dict):
                raise UserError(f"--target: {key}: {each} has a value already; name it once")
        if section.get(name) is not None:
            raise UserError(f"--target: {key} has a value already; name it once")
        listed = value.strip().startswith("[")
        section[name] = _value(f"--target: {key}", value) if outer or listed else value.strip()
    return validate(TargetConfig, content, "--target")


main = partial(start, parse, "pipeline.commands.grow")
"""Do what the command line asks; return the exit status."""

if __name__ == "__main__":
    sys.exit(main())
