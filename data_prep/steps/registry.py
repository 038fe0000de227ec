"""Which steps there are, and how a configuration names them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from data_prep.steps.base import Step
from data_prep.steps.c4 import C4
from data_prep.steps.classify import Classify
from data_prep.steps.deduplicate import Deduplicate
from data_prep.steps.fineweb import FineWeb
from data_prep.steps.fix_text import FixText
from data_prep.steps.gopher_quality import GopherQuality
from data_prep.steps.gopher_repetition import GopherRepetition
from data_prep.steps.language import Language
from data_prep.steps.length import Length
from data_prep.steps.mask_pii import MaskPII
from data_prep.steps.normalize import Normalize
from data_prep.steps.remove_lines import RemoveLines
from data_prep.steps.user_step import UserStep
from pipeline.common.config import unknown_key

_PLAIN = (Normalize, RemoveLines, Length, Language)
_PUBLISHED = (GopherRepetition, GopherQuality, C4, FineWeb)
STEPS: dict[str, type[Step]] = {step.name: step for step in (*_PLAIN, *_PUBLISHED, MaskPII, FixText, Classify, Deduplicate)}
"""By name."""


def _step(entry: Any) -> Step:
    """The step that an item of `steps` names: a name, or a name with options."""
    if isinstance(entry, Step):
        return entry
    name, options = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, {})
    options = {} if options is None else options
    if not isinstance(name, str) or not isinstance(options, dict):
        raise ValueError("a step is a name, or a name with its options, for instance {length: {min: 128}}")
    if ":" in name:
        return UserStep(path=name, options=options)
    if name not in STEPS:
        raise ValueError(unknown_key("a step", name, list(STEPS)) + "; one of your own is named module:Class")
    unknown = [key for key in options if key not in STEPS[name].model_fields]
    if unknown:
        raise ValueError(unknown_key(name, unknown[0], list(STEPS[name].model_fields)))
    return STEPS[name](**options)


StepEntry = Annotated[Step, BeforeValidator(_step), PlainSerializer(lambda step: step.entry(), when_used="always")]
