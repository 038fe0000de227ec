"""A tokenizer beside an exported model: whether it stays what it is there, and how long a text it lets through."""

import tempfile
from pathlib import Path

from transformers import PretrainedConfig

from data_prep.tokenizers.files import CONFIG, has_tokenizer, is_bare_sentencepiece
from data_prep.tokenizers.loading import Tokenizer, difference, load_tokenizer
from pipeline.common.config import read_json
from pipeline.common.errors import UserError
from pipeline.common.files import write_json
from pipeline.families import family_of, sizes_of

_UNKNOWN = 10**20
"""Lengths from here on stand for none: where it knows of none transformers writes 10**30."""


def check_beside(tokenizer: Tokenizer, config: PretrainedConfig) -> None:
    """Raise UserError where the tokenizer gives other ids beside the model, whose config.json AutoTokenizer reads too."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.write(Path(folder))
        try:
            differs = difference(tokenizer, load_tokenizer(Path(folder), tokenizer.split_special_tokens, for_text=False))
        except UserError as error:
            differs = str(error).removeprefix(f"{folder}: ")
    if differs is not None:
        raise UserError(
            f"{tokenizer.files[0]}: transformers' AutoTokenizer gives other ids where this lies beside a {config.model_type} "
            f"model ({differs}); choose a tokenizer of the model's own kind"
        )


def write_tokenizer_length(directory: Path, config: PretrainedConfig, source: PretrainedConfig | None = None) -> None:
    """Have transformers' tokenizer in `directory` report the positions of the model there as its `model_max_length`.

    What tokenizer_config.json says already stays, unless that is what the model's `source` could read, from which the file
    was copied. Nothing is written where transformers' files are not there, or the model reads any number. Raises UserError
    where that file is no JSON.
    """
    if not has_tokenizer(directory) or is_bare_sentencepiece(directory) or _positions(config) is None:
        return
    path = directory / CONFIG
    content = read_json(path, "copy the tokenizer again") if path.is_file() else {}
    said = content.get("model_max_length")
    if said is None or said >= _UNKNOWN or (source is not None and said == _positions(source)):
        write_json(path, content | {"model_max_length": _positions(config)})


def _positions(config: PretrainedConfig) -> int | None:
    return family_of(config).usable_positions(sizes_of(config))
