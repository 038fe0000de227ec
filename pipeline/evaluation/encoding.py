"""A model's tokenizer, as the zero-shot tasks use it: Hugging Face's own, as all who publish figures do.

The tokenizer that prepares training data takes `<unk>` in a text for five characters; this one, as WikiText means it, for
the token.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from data_prep.errors import UserError
from data_prep.tokenizer import SENTENCEPIECE_FILE
from pipeline.families import Family

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", SENTENCEPIECE_FILE)


def open_tokenizer(directory: Path, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a directory, of the class that it or the model's configuration names.

    Raises UserError where there is none, or one with more ids than the model has.
    """
    if not any((directory / name).is_file() for name in _VOCABULARIES):
        raise UserError(f"{directory}: no tokenizer there; put the model's own files there, {_VOCABULARIES[0]} for instance")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, config=config)
    except Exception as error:  # the tokenizers library raises plain Exception for files it cannot use
        raise UserError(f"{directory}: the tokenizer does not load ({' '.join(str(error).split())[:200]})") from None
    # It warns of texts longer than a model reads; they are cut into windows here.
    tokenizer.model_max_length = int(1e30)
    highest = max(tokenizer.get_vocab().values())
    if highest >= config.vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has ids up to {highest}, and the model's vocab_size is {config.vocab_size}; put the "
            "model's own tokenizer there"
        )
    return tokenizer


@dataclass(frozen=True, slots=True)
class Encoder:
    """Texts to ids, and the ids that stand around them."""

    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids, without special tokens."""
        # Where it may, the library starts threads, and warns of them in every process that is started later.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def opened(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids behind what the tokenizer puts in front of a text by itself (Llama's does)."""
        bare, dressed = self.encode(["a"])[0], self.tokenizer("a")["input_ids"]
        front = next(dressed[:start] for start in range(len(dressed)) if dressed[start : start + len(bare)] == bare)
        return [front + ids for ids in self.encode(texts)]

    @property
    def prefix(self) -> int:
        """What stands in front of a document: the model's own beginning, else the tokenizer's, else its end.

        Models that were trained here have seen every document behind the end of another. A class's default that is no id of
        the vocabulary (GPT-2's 50256) names nothing.
        """
        named = (self.config.bos_token_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        known = [token for token in named if token is not None and 0 <= token < self.config.vocab_size]
        if not known:
            raise UserError(f"{self.tokenizer.name_or_path}: no beginning or end of a text among its tokens; name a bos_token")
        return known[0]

    def check(self, family: Family) -> None:
        """Raise UserError where what the family's models are scored with is missing."""
        if family.objective == "mlm":
            self.around()
        else:
            _ = self.prefix

    def around(self) -> tuple[int, int, int]:
        """Return [CLS], [SEP] and [MASK]; raises UserError where one is missing."""
        tokens = (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, self.tokenizer.mask_token_id)
        for name, token in zip(("cls_token", "sep_token", "mask_token"), tokens, strict=True):
            if token is None:
                raise UserError(f"{self.tokenizer.name_or_path}: has no {name}, which masked models are scored with; name one")
        return tokens
