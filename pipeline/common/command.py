"""What every command of the project does alike: errors in one sentence."""

import argparse
import errno
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

from pipeline.common.errors import UserError, full_disk, is_full_disk
from pipeline.common.starting import refuse, unfit_environment

_UNUSABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EROFS,
    errno.ENOENT,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
)


class OneSentenceParser(argparse.ArgumentParser):
    """A command line whose refusals are one sentence, as all others are, and whose help names the command as it was typed."""

    def __init__(self, prog: str | None = None, **settings: Any) -> None:
        super().__init__(prog=prog or shlex.join(typed_command()), **settings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave."""
        self.exit(refuse(f"{self.prog}: {message}; --help tells more"))


def typed_command() -> list[str]:
    """The command as a person would type it: `growth-grow`, `python launch/grow.py` or `python -m pipeline.cli.grow`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.origin == sys.argv[0]:
        return ["python", "-m", spec.name.removesuffix(".__main__")]
    if sys.argv[0].endswith(".py"):
        return ["python", sys.argv[0]]
    return [Path(sys.argv[0]).name]


def refusal(error: Exception) -> str | None:
    """Return the sentence for an error that a person can correct, None for a fault of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, UnicodeEncodeError) and (encoding := sys.getfilesystemencoding()) != "utf-8":
        return f"{error.object!r}: the locale's encoding, {encoding}, has no such characters; set PYTHONUTF8=1 and start again"
    if isinstance(error, ImportError):
        # Of what is imported where it is needed alone.
        return unfit_environment(error)
    if isinstance(error, OSError) and is_full_disk(error):
        return full_disk(error)
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"{error.filename or 'ulimit -n'}: {error.strerror}; raise the limit with ulimit -n"
    if isinstance(error, OSError) and error.filename is not None and error.errno in _UNUSABLE:
        return f"{error.filename}: {error.strerror}; name a path that can be used, or change its permissions"
    return None
