"""The one error that means: the user's input is wrong."""

import errno

EXIT_FAULT = 1
EXIT_USER_ERROR = 2
"""Exit status of every command whose input is wrong."""
EXIT_INTERRUPTED = 130
"""Exit status of a command that was stopped by Ctrl-C and saves nothing on the way, as in a shell."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """The user's input is wrong: one sentence naming the file, key or tensor, and what to do."""


def one_line(error: object, most: int | None = 200) -> str:
    """Return an error's first `most` characters in one line."""
    return " ".join(str(error).split())[:most]


def is_full_disk(error: OSError) -> bool:
    """Whether a file could not be written since the disk is full."""
    return error.errno in _FULL


def full_disk(error: OSError) -> str:
    """The sentence for a disk that is full."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}; free disk space and start the same command again, which goes on from what is done"
