"""How a causal model generates text: the file beside it that says where it stops."""

from pathlib import Path

from transformers import GenerationConfig, PretrainedConfig

from data_prep.tokenizers.loading import find_tokenizer
from pipeline.families import family_of

GENERATION = "generation_config.json"


def write_generation_config(directory: Path, config: PretrainedConfig, tokenizers: Path) -> None:
    """Write beside a causal model what `model.generate` goes by, where the directory has no such file yet.

    Text ends with the configuration's `eos_token_id`, or, where that is no id of the vocabulary (GPT-2's class has 50256 as its
    default), with that of the tokenizer in `tokenizers`. Nothing is written for a masked model, or where neither has one.
    """
    if family_of(config).objective != "clm" or (directory / GENERATION).exists():
        return
    ends = _ids(config.eos_token_id, config.vocab_size)
    if not ends:
        tokenizer = find_tokenizer(tokenizers, for_text=False)
        ends = [] if tokenizer is None else _ids(tokenizer.eos_id, config.vocab_size)
    if not ends:
        return
    begins, pads = (_ids(getattr(config, key), config.vocab_size) for key in ("bos_token_id", "pad_token_id"))
    generation = GenerationConfig(
        bos_token_id=begins[0] if begins else None,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        # Windows are packed full in training: what stands behind an end is never read.
        pad_token_id=pads[0] if pads else ends[0],
    )
    generation.save_pretrained(directory)


def _ids(found: int | list[int] | None, vocabulary: int) -> list[int]:
    """The ids among those found that the vocabulary has."""
    listed = found if isinstance(found, list) else [found]
    return [token for token in listed if token is not None and 0 <= token < vocabulary]
