"""python -m data_prep run CONFIG.yaml | check CONFIG.yaml | inspect DIR | verify DIR

On many processes: mpiexec -n N python -m mpi4py -m data_prep run CONFIG.yaml; the bytes are the same.
"""

import os

# Before anything imports them: one process is one core, so that N processes are N cores.
for _variable in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import sys
import traceback
from pathlib import Path

from data_prep.command import OneSentenceParser, refusal
from data_prep.config import read_yaml, validate
from data_prep.errors import EXIT_FAULT, EXIT_USER_ERROR, UserError
from data_prep.inspection import describe
from data_prep.manifest import PreparedData
from data_prep.plan import draft_plan
from data_prep.prepare import prepare_together
from data_prep.settings import DataPrepConfig
from data_prep.verify import damaged
from data_prep.workers import Alone, Workers, started_workers

EXIT_INTERRUPTED = 130


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = OneSentenceParser(
        prog="python -m data_prep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="prepare what a configuration asks for, or go on with it")
    run.add_argument("config", type=Path, metavar="CONFIG.yaml")
    run.set_defaults(command=_run)
    check = commands.add_parser("check", help="look for what a configuration names, and print the folder that it would fill")
    check.add_argument("config", type=Path, metavar="CONFIG.yaml")
    check.set_defaults(command=_check)
    inspect = commands.add_parser("inspect", help="print what a prepared folder holds")
    inspect.add_argument("directory", type=Path, metavar="DIR")
    inspect.add_argument("--windows", type=int, default=3, help="windows of each split to show as text (default: %(default)s)")
    inspect.set_defaults(command=_inspect)
    verify = commands.add_parser("verify", help="hash every file of a prepared folder again")
    verify.add_argument("directory", type=Path, metavar="DIR")
    verify.set_defaults(command=_verify)
    return parser.parse_args()


def _read(path: Path) -> DataPrepConfig:
    return validate(DataPrepConfig, read_yaml(path), str(path))


def _run(arguments: argparse.Namespace, workers: Workers) -> None:
    prepare_together(_read(arguments.config), workers, lambda line: print(line, flush=True))


def _check(arguments: argparse.Namespace, workers: Workers) -> None:
    config = _read(arguments.config)
    draft_plan(config)
    print(config.output_dir)


def _inspect(arguments: argparse.Namespace, workers: Workers) -> None:
    print(describe(PreparedData(arguments.directory), arguments.windows))


def _verify(arguments: argparse.Namespace, workers: Workers) -> None:
    data = PreparedData(arguments.directory)
    lines = damaged(data)
    if lines:
        print("\n".join(lines), file=sys.stderr)
        raise UserError(
            f"{arguments.directory}: {len(lines)} of {len(data.manifest.files)} files are not as they were written; remove the "
            "folder and prepare it again"
        )
    print(f"{arguments.directory}: all {len(data.manifest.files)} files are as they were written")


def main() -> int:
    """Do what the command line asks; return the exit status."""
    workers: Workers = Alone()
    try:
        arguments = parse()
        workers = started_workers()
        arguments.command(arguments, workers)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr, flush=True)
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
            print(sentence, file=sys.stderr, flush=True)
        status = EXIT_FAULT if sentence is None else EXIT_USER_ERROR
    else:
        return 0
    workers.abort(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
