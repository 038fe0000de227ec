"""A model's tokenizer, as the zero-shot tasks use it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from data_prep.tokenizers.loading import Tokenizer, load_tokenizer, tokenizer_digest
from pipeline.common.errors import UserError
from pipeline.common.files import text_digest
from pipeline.families import Family, check_trained, family_of, sizes_of


def open_tokenizer(directory: Path, config: PretrainedConfig, split_special_tokens: bool = True) -> Tokenizer:
    """Return the tokenizer in a directory.

    Raises UserError where there is none, or one with more ids than the model has, and for a model that is not evaluated here.
    """
    check_trained(family_of(config), str(directory))
    tokenizer = load_tokenizer(directory, split_special_tokens)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, and the model's vocab_size is "
            f"{config.vocab_size}; put the model's own tokenizer there"
        )
    return tokenizer


def longest_input(family: Family, config: PretrainedConfig) -> int:
    """Return the positions that a model can read at once; raises UserError for a family that has no limit."""
    positions = family.usable_positions(sizes_of(config))
    if positions is None:
        raise UserError(f"{family.name}: its inputs have no greatest length, and such models are not evaluated")
    return positions


_NOT_COMPUTED = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Keys of a configuration that are no part of what the model computes; the dtype is among a score's settings."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Texts to ids, and the ids that stand around them."""

    tokenizer: Tokenizer
    config: PretrainedConfig

    @property
    def digests(self) -> dict[str, Any]:
        """What a score keeps of the configuration and the tokenizer."""
        computed = {key: value for key, value in self.config.to_dict().items() if key not in _NOT_COMPUTED}
        config = text_digest(json.dumps(computed, sort_keys=True, default=str))
        return {"config_digest": config, "tokenizer_digest": text_digest(tokenizer_digest(self.tokenizer))}

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids, without special tokens."""
        # Where it may, the library starts threads, and warns of them in every process that is started later.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return self.tokenizer.encode_batch(texts)

    def opened(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids behind what the tokenizer puts in front of a text by itself (Llama's does)."""
        return [[*self.tokenizer.front, *ids] for ids in self.encode(texts)]

    @property
    def prefix(self) -> int:
        """What stands in front of a document: the model's own beginning, else the tokenizer's, else its end.

        Models that were trained here have seen every document behind the end of another. A class's default that is no id of
        the vocabulary (GPT-2's 50256) names nothing.
        """
        named = (self.config.bos_token_id, self.tokenizer.bos_id, self.tokenizer.eos_id)
        return next(token for token in named if token is not None and 0 <= token < self.config.vocab_size)

    def check(self, family: Family) -> None:
        """Raise UserError where what the family's models are scored with is missing."""
        if family.objective == "mlm":
            self.around()

    def around(self) -> tuple[int, int, int]:
        """Return [CLS], [SEP] and [MASK]; raises UserError where one is missing."""
        cls, sep, mask = self.tokenizer.cls_id, self.tokenizer.sep_id, self.tokenizer.mask_id
        if cls is None or sep is None or mask is None:
            missing = "cls" if cls is None else "sep" if sep is None else "mask"
            raise UserError(
                f"{self.tokenizer.directory}: has no {missing}_token, which masked models are scored with; name one in "
                "tokenizer_config.json"
            )
        return cls, sep, mask
