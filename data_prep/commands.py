"""What the commands of `python -m data_prep` do, once the command line is read."""

import argparse
import os
import sys
import traceback

from data_prep.inspection import describe
from data_prep.jobs.workers import Alone, Workers, started_workers
from data_prep.manifest import PreparedData
from data_prep.plans.drafting import draft_plan
from data_prep.prepare import prepare_together
from data_prep.stages.publish import fetch
from data_prep.stages.verify import damaged
from pipeline.common.command import refusal
from pipeline.common.errors import EXIT_FAULT, EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from pipeline.common.logs import show_messages


def _carry_out(arguments: argparse.Namespace, workers: Workers) -> None:
    match arguments.command:
        case "run":
            prepare_together(arguments.config, workers)
        case "check":
            for line in draft_plan(arguments.config).left_out:
                print(line, file=sys.stderr)
            print(arguments.config.output_dir)
        case "inspect":
            print(describe(PreparedData(arguments.directory), arguments.windows))
        case "report":
            # Of no use to the other commands: templates.
            from data_prep.report.page import write_page

            print(write_page(PreparedData(arguments.directory), arguments.out))
        case "verify":
            data = PreparedData(arguments.directory)
            lines = damaged(data)
            if lines:
                print("\n".join(lines), file=sys.stderr)
                raise UserError(
                    f"{arguments.directory}: {len(lines)} of {len(data.manifest.files)} files are not as they were written; "
                    "remove the folder and prepare it again"
                )
            print(f"{arguments.directory}: all {len(data.manifest.files)} files are as they were written")
        case "fetch":
            data = fetch(arguments.url, arguments.directory)
            print(f"{data.directory}: all {len(data.manifest.files)} files are as they were published")


def work(arguments: argparse.Namespace) -> int:
    """Do what the command line asks; return the exit status."""
    workers: Workers = Alone()
    try:
        workers = started_workers()
        show_messages(first=workers.rank == 0)
        _carry_out(arguments, workers)
    except KeyboardInterrupt:
        print("the preparation was stopped; start the same command again to continue it", file=sys.stderr, flush=True)
        status = EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has had enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_FAULT
    except Exception as error:
        sentence = refusal(error)
        if sentence is None:
            traceback.print_exc()
        else:
            # Each process for itself: what one has met, the others need not have.
            print(sentence, file=sys.stderr, flush=True)
        status = EXIT_FAULT if sentence is None else EXIT_USER_ERROR
    else:
        return 0
    workers.abort(status)
    return status
