"""All tasks by their names, without what runs them."""

import difflib
from typing import Any

from pipeline.common.errors import UserError
from pipeline.evaluation.tuning.glue import GLUE
from pipeline.evaluation.tuning.squad import SQUAD
from pipeline.evaluation.tuning.task import TuningTask
from pipeline.evaluation.zero_shot.last_word import LAMBADA
from pipeline.evaluation.zero_shot.task import ZeroShotTask
from pipeline.evaluation.zero_shot.texts import TEXT, TEXTS, OwnText

ZERO_SHOT: dict[str, ZeroShotTask[Any]] = {task.name: task for task in (*TEXTS, LAMBADA)}
"""Tasks that a model is scored on as it is; a text of one's own is one too (`zero_shot_task`)."""

TUNING: dict[str, TuningTask[Any]] = {**GLUE, SQUAD.name: SQUAD}
"""Tasks that a model is fine-tuned on."""

HARNESS = "lm_eval:"
"""What a task's name begins with that is one of lm_eval's."""

DTYPES = ("float32", "bfloat16", "float16")
"""What a model may be scored in, by torch's names."""


def zero_shot_task(name: str) -> ZeroShotTask[Any]:
    """Return the zero-shot task of a name that `check_task` lets pass."""
    return OwnText(name) if name.startswith(TEXT) else ZERO_SHOT[name]


def check_task(name: str, origin: str) -> None:
    """Raise UserError, which begins with `origin`, where there is no such task of any kind; names the nearest."""
    names = [*ZERO_SHOT, *TUNING]
    if name in names or any(name.startswith(kind) and name != kind for kind in (TEXT, HARNESS)):
        return
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    raise UserError(f"{origin}: no task {name!r}; {hint} (a text of your own: text:FILE; one of lm_eval's: lm_eval:NAME)")
