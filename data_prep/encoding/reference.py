"""What ids are right: Hugging Face's tokenizers library on what AutoTokenizer made, or sentencepiece on a bare model."""

import json
from pathlib import Path
from typing import Any

from data_prep.encoding.ragged import Ragged, ragged


class HuggingFace:
    """The tokenizers library, on the description of a fast tokenizer of transformers."""

    name = "tokenizers"
    """As the package index calls it."""

    def __init__(self, path: Path, split_special_tokens: bool) -> None:
        """Read what is described in a file as tokenizer.json does."""
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = self.split_special_tokens = split_special_tokens
        self.described: dict[str, Any] = json.loads(path.read_bytes())

    @property
    def added(self) -> list[str]:
        """How the added tokens are spelled."""
        return [token["content"] for token in self.described["added_tokens"]]

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: list[str]) -> Ragged:
        """Return the texts' ids, without those that frame a text."""
        return ragged([encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)])

    def decode(self, ids: list[int]) -> str:
        """Return a text of these ids, more or less."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class SentencePiece:
    """The sentencepiece library, on a model in its format."""

    name = "sentencepiece"

    def __init__(self, path: Path) -> None:
        """Read a model's file."""
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def encode(self, texts: list[str]) -> Ragged:
        """Return the texts' ids."""
        # Preparation has a process for each core.
        return ragged(self._processor.encode(texts, num_threads=1))


Reference = HuggingFace | SentencePiece
"""The library whose ids count."""
