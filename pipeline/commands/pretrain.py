"""The run of a recipe, its configuration printed, or its dry run."""

import argparse
import json
import signal
import sys
import traceback
from typing import Any

from pipeline.common.command import refusal
from pipeline.common.errors import one_line
from pipeline.common.logs import is_first_process, show_messages
from pipeline.common.quiet import EXIT_DIVERGED, quieten
from pipeline.common.starting import refuse
from pipeline.recipe import Recipe, as_written, load_recipe, taken_by_auto
from pipeline.training import distributed
from pipeline.training.ds_config import load_ds_config
from pipeline.training.loop.guard import GuardStoppedError
from pipeline.training.run.dry_run import DryRun
from pipeline.training.run.dry_run_page import page_of
from pipeline.training.run.pretraining import Run
from pipeline.training.signals import EXIT_STOPPED, Stopped, StopRequest

_MFU = 0.4


def work(arguments: argparse.Namespace) -> int:
    """Run the recipe; return the exit status."""
    quieten()
    reworded = as_written(arguments.recipe, arguments.overrides)
    show_messages(first=is_first_process(), reworded=reworded)
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
                _print_resolved(recipe, ds_config, taken_by_auto(arguments.recipe, arguments.overrides))
            return 0
        if arguments.dry_run:
            if distributed.rank() == 0:
                dry_run = DryRun.of(recipe, ds_config, ranks, arguments.mfu or _MFU, arguments.corpus_tokens)
                print(reworded(page_of(dry_run)))
            return 0
        Run(recipe, ds_config, stop, arguments.branch_from).execute()
    except Stopped:
        # Launchers end every rank as soon as one has left, and this one may be about to.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if distributed.rank() == 0:
            print("the run was stopped; start the same command again to continue it", file=sys.stderr)
        return EXIT_STOPPED
    except GuardStoppedError as error:
        if distributed.rank() == 0:
            print(error, file=sys.stderr)
        return EXIT_DIVERGED
    except Exception as error:
        sentence = refusal(error)
        if sentence is not None:
            # As above.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return refuse(reworded(sentence))
        if distributed.has_lost_a_rank(error):
            print(
                f"rank {distributed.rank()}: another rank has ended, and this one ends too ({one_line(error)}); start the same "
                "command again to continue from the last checkpoint",
                file=sys.stderr,
            )
        else:
            traceback.print_exc()
        return 1
    else:
        distributed.leave()
    return 0


def _print_resolved(recipe: Recipe, ds_config: dict[str, Any], reasons: list[str]) -> None:
    """Print a recipe as it stands, with what `auto` took and the DeepSpeed configuration as comments."""
    for reason in reasons:
        print(f"# {reason}")
    print(recipe.to_short_yaml())
    print("# The DeepSpeed configuration:")
    print("\n".join(f"# {line}" for line in json.dumps(ds_config, indent=2).splitlines()))
