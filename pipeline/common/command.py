"""What every command of the project does alike: errors in one sentence."""

import argparse
import errno
import sys
from typing import NoReturn

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
    """A command line whose refusals are one sentence, as all others are."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave."""
        self.exit(refuse(f"{self.prog}: {message}; --help tells more"))


def refusal(error: Exception) -> str | None:
    """Return the sentence for an error that a person can mend, None for a fault of the program."""
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
        return f"{error.filename}: {error.strerror}; name a path that can be used, or mend its permissions"
    return None
