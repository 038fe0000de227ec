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

from data_prep.command import OneSentenceParser, refusal
from data_prep.errors import EXIT_USER_ERROR
from pipeline.command import quieten
from pipeline.recipe import load_recipe
from pipeline.training import distributed
from pipeline.training.ds_config import load_ds_config
from pipeline.training.run import Run
from pipeline.training.signals import EXIT_STOPPED, Stopped, StopRequest

_LAST_WORD_SECONDS = 3

QUICKSTART = Path(__file__).parent / "recipes" / "quickstart.yaml"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ds_config", type=Path, required=True, help="DeepSpeed's JSON, for instance ds_configs/zero3.json")
    parser.add_argument("--recipe", type=Path, default=QUICKSTART, help="what to run, as YAML (default: %(default)s)")
    parser.add_argument("--print_config", action="store_true", help="print both configurations as resolved, and end")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="recipe keys to set")
    return parser.parse_intermixed_args()


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
        if not arguments.print_config:
            distributed.join()
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        ds_config = load_ds_config(arguments.ds_config, recipe, distributed.world_size())
        if arguments.print_config:
            if distributed.rank() == 0:
                print(recipe.to_yaml() + "\n" + json.dumps(ds_config, indent=2))
            return 0
        Run(recipe, ds_config, stop).execute()
    except Stopped:
        if distributed.rank() == 0:
            print("stopped; start the same command again to go on", file=sys.stderr)
        return EXIT_STOPPED
    except Exception as error:
        sentence = refusal(error)
        if sentence is not None:
            return refuse(sentence)
        traceback.print_exc()
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
