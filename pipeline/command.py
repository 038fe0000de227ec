"""Quiet libraries, for every command of launch/."""

import logging
import warnings

import transformers


def quieten() -> None:
    """Leave out what libraries say to their own developers."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
