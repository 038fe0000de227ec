"""Grow a pre-trained model and train it on, from text to a Hugging Face directory.

deepspeed --module pipeline.cli.pretrain --ds_config ds_configs/zero3.json [--recipe R] [key.sub=value ...]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import NoReturn

from pipeline.common.starting import leave, start

_QUICKSTART = "launch/recipes/quickstart.yaml"


def parse() -> argparse.Namespace:
    """Read the command line and the files that it names; raises UserError."""
    from data_prep.jobs.workers import on_one_node
    from pipeline.common.built_in import find_file, names_in
    from pipeline.common.command import OneSentenceParser
    from pipeline.recipe import load_recipe, read_ds_config

    parser = OneSentenceParser(
        description=__doc__.splitlines()[0],
        epilog="%(prog)s starts one process. Several: deepspeed --module pipeline.cli.pretrain ..., or in a checkout "
        "deepspeed launch/pretrain.py ... Where the working directory has no such file, these names stand for the project's "
        f"own: {', '.join([*names_in('ds_configs'), *names_in('launch/recipes')])}",
    )
    add = parser.add_argument
    add("--ds_config", type=find_file, required=True, help="DeepSpeed's JSON, for instance ds_configs/zero3.json")
    add("--recipe", type=find_file, default=_QUICKSTART, help="what to run, as YAML (default: %(default)s)")
    add("--print_config", action="store_true", help="print both configurations as resolved, and end")
    add("--dry_run", action="store_true", help="say what the run would be and cost, check the data, and end")
    branch = "a run whose first steps are this one's: go on from its checkpoint (where this run has none yet)"
    add("--branch_from", type=Path, metavar="RUN_DIR", help=branch)
    dry_run = parser.add_argument_group("with --dry_run")
    dry_run.add_argument("--mfu", type=float, help="model FLOPs as a share of the devices' peak, for the time (default: 0.4)")
    dry_run.add_argument("--world_size", type=int, help="the number of ranks to plan for (default: those launched)")
    dry_run.add_argument("--corpus_tokens", type=int, help="look at no data, and take it to be so many tokens to train on")
    add("--local_rank", type=int, help=argparse.SUPPRESS)
    add("overrides", nargs="*", metavar="key.sub=value", help="recipe keys to set")
    arguments = parser.parse_intermixed_args()
    for name, most in (("mfu", 1), ("world_size", None), ("corpus_tokens", None)):
        given = getattr(arguments, name)
        if given is None:
            continue
        if not arguments.dry_run:
            parser.error(f"--{name} goes with --dry_run")
        if not given > 0 or (most is not None and given > most):
            parser.error(f"--{name} {given} is not above 0" + (f" and up to {most}" if most else ""))
    if arguments.branch_from is not None and (arguments.dry_run or arguments.print_config):
        parser.error("--branch_from is of a run that trains; leave it out")
    if on_one_node():
        load_recipe(arguments.recipe, arguments.overrides)
        read_ds_config(arguments.ds_config)
    return arguments


main = partial(start, parse, "pipeline.commands.pretrain")
"""Run the recipe; return the exit status."""


def command() -> NoReturn:
    """Run the recipe, and end the process with the exit status."""
    leave(main())


if __name__ == "__main__":
    command()
