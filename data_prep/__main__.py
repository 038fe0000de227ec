"""python -m data_prep run CONFIG.yaml | check CONFIG.yaml | inspect DIR | report DIR | verify DIR | fetch URL DIR

On many processes: mpiexec -n N python -m mpi4py -m data_prep run CONFIG.yaml; the bytes are the same.
"""

import os

# Before anything imports them: one process is one core, so that N processes are N cores.
for _variable in ("RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import sys
from pathlib import Path

from pipeline.common.starting import start


def parse() -> argparse.Namespace:
    """Read the command line and the configuration that it names; raises UserError."""
    from data_prep.settings import DataPrepConfig
    from pipeline.common.built_in import find_file
    from pipeline.common.command import OneSentenceParser
    from pipeline.common.config import read_yaml, validate

    parser = OneSentenceParser(description=__doc__.splitlines()[-1])
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    for name, what in {
        "run": "prepare what a configuration asks for, or go on with it",
        "check": "look for what a configuration names, and print the folder that it would fill",
    }.items():
        commands.add_parser(name, help=what).add_argument("config", type=find_file, metavar="CONFIG.yaml")
    inspect = commands.add_parser("inspect", help="print what a prepared folder holds")
    inspect.add_argument("--windows", type=int, default=3, help="windows of each split to show as text (default: %(default)s)")
    report = commands.add_parser("report", help="make a page of what a prepared folder holds, which opens from disk")
    report.add_argument("--out", type=Path, metavar="FILE.html", help="the page (default: DIR/report.html)")
    verify = commands.add_parser("verify", help="hash every file of a prepared folder again")
    fetched = commands.add_parser("fetch", help="download a folder that was prepared to a store")
    fetched.add_argument("url", metavar="URL")
    for command in (inspect, report, verify, fetched):
        command.add_argument("directory", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    if "config" in arguments:
        arguments.config = validate(DataPrepConfig, read_yaml(arguments.config), str(arguments.config))
    return arguments


def main() -> int:
    """Do what the command line asks; return the exit status."""
    return start(parse, "data_prep.commands")


if __name__ == "__main__":
    sys.exit(main())
