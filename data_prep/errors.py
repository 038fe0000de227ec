"""The one error that means: the user's input is wrong."""

EXIT_USER_ERROR = 2
"""Exit status of every command whose input is wrong."""


class UserError(Exception):
    """The user's input is wrong: one sentence naming the file, key or tensor and what would do."""
