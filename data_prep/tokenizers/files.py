"""Which files of a directory are a tokenizer's: what transformers' AutoTokenizer reads, without config.json."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.common.config import read_json
from pipeline.common.files import regular_files

SENTENCEPIECE = "tokenizer.model"
JSON = "tokenizer.json"
CONFIG = "tokenizer_config.json"
MODEL_CONFIG = "config.json"
"""The model's: where tokenizer_config.json names no class, AutoTokenizer goes by its `model_type`."""

_VOCABULARIES = (
    JSON,
    "vocab.json",
    "vocab.txt",
    SENTENCEPIECE,
    "spiece.model",
    "sentencepiece.bpe.model",
    "tiktoken.model",
    "tekken.json",
)
_FILES = (
    # Files for newer versions of the library, as in tokenizer.4.0.0.json.
    "tokenizer.[0-9]*.json",
    CONFIG,
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)


def tokenizer_files(directory: Path) -> list[Path]:
    """Return the tokenizer's files in `directory`, its vocabulary's first; raises UserError for one that is no file."""
    names = [directory / name for name in _VOCABULARIES]
    names += [path for pattern in _FILES for path in sorted(directory.glob(pattern))]
    return regular_files(names)


def has_tokenizer(directory: Path) -> bool:
    """Whether there is a vocabulary in `directory`; raises UserError for a file of that name that is none."""
    return bool(regular_files(directory / name for name in _VOCABULARIES))


def is_bare_sentencepiece(directory: Path) -> bool:
    """Whether the tokenizer in `directory` is a sentencepiece model alone, and none that AutoTokenizer reads.

    It does beside the config.json of a family whose own tokenizer is of that kind. Raises UserError where that is no JSON.
    """
    if [path.name for path in tokenizer_files(directory) if path.suffix != ".jinja"] != [SENTENCEPIECE]:
        return False
    config = directory / MODEL_CONFIG
    return not config.is_file() or read_json(config, "copy the model again").get("model_type") not in ("llama", "mistral")


def copy_files(files: Iterable[Path], origin: Path, folder: Path) -> None:
    """Copy files below `origin` to the same places below `folder`."""
    for path in files:
        place = folder / path.relative_to(origin)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
