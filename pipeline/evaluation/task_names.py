"""The names of all tasks, without what runs them."""

import difflib

from pipeline.common.errors import UserError
from pipeline.evaluation.texts import PUBLISHED, TEXT
from pipeline.evaluation.tuning.glue import GLUE
from pipeline.evaluation.tuning.squad import SQUAD

LAMBADA = "lambada"

HARNESS = "lm_eval:"
"""What a task's name begins with that is one of lm_eval's."""

TUNED = (*GLUE, SQUAD)
"""Tasks that a model is fine-tuned on."""


DTYPES = ("float32", "bfloat16", "float16")
"""What a model may be scored in, by torch's names."""


def check_task(task: str, origin: str) -> None:
    """Raise UserError, which begins with `origin`, where there is no such task of any kind; names the nearest."""
    if task in PUBLISHED or task in TUNED or any(task.startswith(kind) and task != kind for kind in (TEXT, HARNESS)):
        return
    known = [*PUBLISHED, *TUNED]
    near = difflib.get_close_matches(task, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise UserError(f"{origin}: no task {task!r}; {hint} (a text of your own: text:FILE; one of lm_eval's: lm_eval:NAME)")
