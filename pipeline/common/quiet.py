"""What all commands do: quiet libraries, errors in one sentence."""

import logging
import traceback
import warnings
from collections.abc import Callable

import transformers

from pipeline.common.command import refusal
from pipeline.common.errors import EXIT_FAULT
from pipeline.common.starting import refuse

EXIT_DIVERGED = 3
"""Exit status of a run that its guard has given up: started again it meets the same again."""


def quieten() -> None:
    """Leave out what libraries say to their own developers."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # matplotlib says it of every glyph in every text.
    warnings.filterwarnings("once", message=r"Glyph \d+ .* missing from font")


def status_of(work: Callable[..., object], *arguments: object) -> int:
    """Do one process's work, given its `arguments`, print on stderr what is wrong with it, and return the exit status."""
    quieten()
    try:
        work(*arguments)
    except Exception as error:
        sentence = refusal(error)
        if sentence is None:
            traceback.print_exc()
            return EXIT_FAULT
        return refuse(sentence)
    return 0
