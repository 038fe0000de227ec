"""Grow a pre-trained model and train it on, from text to a Hugging Face directory.

deepspeed launch/pretrain.py --ds_config ds_configs/zero3.json [--recipe R] [key.sub=value ...]
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from data_prep.command import OneSentenceParser, refusal
from data_prep.errors import EXIT_USER_ERROR
from pipeline.command import EXIT_DIVERGED, quieten
from pipeline.recipe import Recipe, load_recipe
from pipeline.training import distributed
from pipeline.training.dry_run import DryRun
from pipeline.training.ds_config import load_ds_config
from pipeline.training.guard import GuardStoppedError
from pipeline.training.run import Run
from pipeline.training.signals import EXIT_STOPPED, Stopped, StopRequest

_LAST_WORD_SECONDS = 3

_MFU = 0.4

QUICKSTART = Path(__file__).parent / "recipes" / "quickstart.yaml"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ds_config", type=Path, required=True, help="DeepSpeed's JSON, for instance ds_configs/zero3.json")
    parser.add_argument("--recipe", type=Path, default=QUICKSTART, help="what to run, as YAML (default: %(default)s)")
    parser.add_argument("--print_config", action="store_true", help="print both configurations as resolved, and end")
    parser.add_argument("--dry_run", action="store_true", help="say what the run would be and cost, check the data, and end")
    dry_run = parser.add_argument_group("with --dry_run")
    dry_run.add_argument("--mfu", type=float, help="model FLOPs as a share of the devices' peak, for the time (default: 0.4)")
    dry_run.add_argument("--world_size", type=int, help="ranks to reckon with (default: those launched)")
    dry_run.add_argument("--corpus_tokens", type=int, help="look at no data, and take it to be so many tokens to train on")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="recipe keys to set")
    arguments = parser.parse_intermixed_args()
    for name, most in (("mfu", 1), ("world_size", None), ("corpus_tokens", None)):
        given = getattr(arguments, name)
        if given is None:
            continue
        if not arguments.dry_run:
            parser.error(f"--{name} goes with --dry_run")
        if given <= 0 or (most is not None and given > most):
            parser.error(f"--{name} {given} is not above 0" + (f" and up to {most}" if most else ""))
    return arguments


def refuse(sentence: str) -> int:
    """Say what is wrong with the input, once for all ranks; return the exit status."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if distributed.rank() == 0:
        print(sentence, file=sys.stderr)
    else:
        # The launcher ends every rank as soon as one has left: let the first one speak.
        time.sleep(_LAST_WORD_SECONDS)
    return EXIT_USER_ERROR


def main() -> int:
    """Run the recipe; return the exit status."""
    arguments = parse()
    quieten()
    try:
        stop = StopRequest()
        trains = not (arguments.print_config or arguments.dry_run)
        if trains:
            distributed.join()
        ranks = arguments.world_size or distributed.world_size()

        def load() -> tuple[Recipe, dict[str, Any]]:
            recipe = load_recipe(arguments.recipe, arguments.overrides)
            return recipe, load_ds_config(arguments.ds_config, recipe, ranks)

        # Each node reads its own copy of the files, and one that lacks them would leave the others waiting.
        recipe, ds_config = distributed.on_every_rank(load) if trains else load()
        if arguments.print_config:
            if distributed.rank() == 0:
                print(recipe.to_yaml() + "\n" + json.dumps(ds_config, indent=2))
            return 0
        if arguments.dry_run:
            if distributed.rank() == 0:
                dry_run = DryRun.of(recipe, ds_config, ranks, arguments.mfu or _MFU, arguments.corpus_tokens, print)
                print(dry_run.render())
            return 0
        Run(recipe, ds_config, stop).execute()
    except Stopped:
        # Launchers end every rank as soon as one has left, and this one may be about to.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if distributed.rank() == 0:
            print("stopped; start the same command again to go on", file=sys.stderr)
        return EXIT_STOPPED
    except GuardStoppedError as error:
        if distributed.rank() == 0:
            print(error, file=sys.stderr)
        return EXIT_DIVERGED
    except Exception as error:
        sentence = refusal(error)
        if sentence is not None:
            return refuse(sentence)
        traceback.print_exc()
        if distributed.has_lost_a_rank(error):
            print(
                f"rank {distributed.rank()}: another rank is gone; the same command goes on from the last checkpoint",
                file=sys.stderr,
            )
        return 1
    else:
        distributed.leave()
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Now and then gloo's threads abort the interpreter's shutdown, after the work; everything is on disk by now.
    os._exit(status)
