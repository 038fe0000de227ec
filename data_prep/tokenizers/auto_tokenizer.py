"""Transformers' AutoTokenizer, on a directory alone."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data_prep.tokenizers.files import CONFIG, JSON, MODEL_CONFIG, SENTENCEPIECE, tokenizer_files
from pipeline.common.config import read_json
from pipeline.common.errors import UserError, one_line

END = "<|endoftext|>"


def read_tokenizer_config(directory: Path) -> dict[str, Any]:
    """Return the keys of tokenizer_config.json, none where it is absent; raises UserError where it is no JSON."""
    path = directory / CONFIG
    return read_json(path, "copy the tokenizer again") if path.is_file() else {}


def open_auto_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Return what AutoTokenizer makes of a directory; no code in it is run, and nothing is looked for elsewhere.

    Where no file says what it is, a vocabulary that can be one family's alone does. Raises UserError where it does not load
    or has no fast backend, and where its class makes up a vocabulary because the files are missing.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **_type(directory))
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception for files it cannot use
        raise UserError(
            f"{directory}: the tokenizer does not load ({one_line(error)}); put it there as tokenizer.json"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"{directory}: {type(tokenizer).__name__} has no fast backend in transformers; put the tokenizer there as "
            "tokenizer.json"
        )
    _check_vocabulary(directory, tokenizer)
    return tokenizer


def _check_vocabulary(directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where the class's files are not there: it makes a vocabulary of a few special tokens up."""
    if any(path.match("tokenizer*.json") and path.name != CONFIG for path in tokenizer_files(directory)):
        return
    wanted = [name for key, name in tokenizer.vocab_files_names.items() if key != "tokenizer_file"]
    missing = [name for name in wanted if not (directory / name).is_file()]
    # In place of one that is missing a class takes any of these.
    if missing and not any((directory / name).is_file() for name in ("tekken.json", "tiktoken.model", SENTENCEPIECE)):
        raise UserError(
            f"{directory}: transformers' {type(tokenizer).__name__} reads {' and '.join(wanted)}, and {missing[0]} is not "
            f"there; put it there, or name the right tokenizer_class in {CONFIG}"
        )


def _type(directory: Path) -> dict[str, str]:
    """AutoTokenizer's `tokenizer_type` where no file says what the tokenizer is, and its vocabulary does."""
    config = directory / MODEL_CONFIG
    keys = (read_json(config, "copy the model again") if config.is_file() else {}) | read_tokenizer_config(directory)
    if any(keys.get(key) for key in ("model_type", "tokenizer_class", "auto_map")) or (directory / JSON).is_file():
        return {}
    if (directory / "vocab.txt").is_file():
        return {"tokenizer_type": "bert"}
    if (directory / "vocab.json").is_file():
        pieces = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
        for kind, marks in (("roberta", ("<s>", "</s>", "<mask>")), ("gpt2", (END,))):
            if all(mark in pieces for mark in marks):
                return {"tokenizer_type": kind}
    raise UserError(
        f"{directory}: no file says whose tokenizer this is; name a tokenizer_class in {CONFIG} (GPT2Tokenizer, Qwen2Tokenizer "
        "or LlamaTokenizer, for instance), or copy the model's config.json there"
    )
