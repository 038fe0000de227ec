"""How every command starts: the command line is read and judged before anything is imported that takes long.

This module imports on any Python 3 with nothing installed, so that a wrong interpreter is refused in one sentence too.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

_PYTHON = (3, 11)
_OWN = ("data_prep", "pipeline")
_ROOT = Path(__file__).resolve().parents[2]

_LAST_WORD_SECONDS = 3


def start(parse: Callable[[], Any], module: str) -> int:
    """Read the command line by `parse`, then import `module` and return the status of its function `work`, given the result.

    A wrong interpreter, a package that is not installed and a UserError of `parse` are refused in one sentence, and Ctrl-C is
    reported in one.
    """
    try:
        return _start(parse, module)
    except KeyboardInterrupt:
        print("interrupted; start the same command again", file=sys.stderr, flush=True)
        return EXIT_INTERRUPTED


def _start(parse: Callable[[], Any], module: str) -> int:
    if sys.version_info < _PYTHON:
        return refuse(f"{sys.executable}: Python {'.'.join(map(str, _PYTHON))} or later is needed; {_remedy()}")
    _speak_utf8()
    try:
        with _all_kept():
            arguments = parse()
            # What libraries say while they are imported, DeepSpeed's logger among them, is no part of what a command prints.
            with redirect_stdout(sys.stderr):
                command = import_module(module).work
                from pipeline.common.logs import is_first_process, show_messages
    except ImportError as error:
        sentence = unfit_environment(error)
        if sentence is None:
            raise
        return refuse(sentence)
    except UserError as error:
        return refuse(str(error))
    show_messages(first=is_first_process())
    return command(arguments)


@contextmanager
def _all_kept() -> Iterator[None]:
    """Exempt what the block makes from garbage collection: modules last, and to look through them takes time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _speak_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding, in which not every file can be named.

    Only a process that is the command itself can, and none of MPI's. What cannot be printed is printed as an escape.
    """
    typed = sys.argv[1:]
    itself = os.path.abspath(sys.argv[0]) == getattr(sys.modules["__main__"], "__file__", None)
    itself = itself and sys.orig_argv[len(sys.orig_argv) - len(typed) :] == typed and "mpi4py" not in sys.modules
    if itself and sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def unfit_environment(error: ImportError) -> str | None:
    """Return the sentence for a package that is missing or of another version, None where it is no other project's."""
    package = (error.name or "").partition(".")[0]
    if package in (*_OWN, ""):
        return None
    if find_spec(package) is None:
        return f"{sys.executable}: the Python package {package} is not installed for this interpreter; {_remedy()}"
    return f"{sys.executable}: the Python package {package} is not of a version that works here ({error}); {_remedy()}"


def _remedy() -> str:
    if not (_ROOT / "pyproject.toml").is_file():
        return "install the project's wheel for it with all that it depends on"
    environment = _ROOT / ".venv"
    whole, used = (environment / "installed").is_file(), Path(sys.prefix).resolve() == environment.resolve()
    if whole and not used:
        return f"start the command with {environment}/bin/python, or run `source {environment}/bin/activate` first"
    if sys.prefix != sys.base_prefix and (whole or not used):
        return f"run `{sys.executable} -m pip install --constraint constraints.txt --editable .` in {_ROOT}"
    return f"run `make .venv` in {_ROOT}, and start the command with {environment}/bin/python"


def leave(status: int) -> NoReturn:
    """End the process without the interpreter's shutdown, which gloo's threads abort now and then; all work is on disk."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def refuse(sentence: str) -> int:
    """Say on stderr what is wrong with the input, once for all ranks, each of which must meet it; return the exit status."""
    if os.environ.get("RANK", "0") == "0":
        print(sentence, file=sys.stderr, flush=True)
    else:
        # The launcher ends every rank as soon as one has left: let the first one speak.
        time.sleep(_LAST_WORD_SECONDS)
    return EXIT_USER_ERROR
