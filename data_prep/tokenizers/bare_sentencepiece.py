"""A bare sentencepiece model, as the sentencepiece library reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sentencepiece

from data_prep.tokenizers.files import SENTENCEPIECE, copy_files, tokenizer_files
from data_prep.tokenizers.meanings import Meanings, sentencepiece_meanings
from pipeline.common.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class SentencePieceTokenizer:
    """A sentencepiece model; its `<s>` is cls, its `</s>` both eos and sep."""

    kind = "sentencepiece"
    front: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()

    def __init__(self, directory: Path, split_special_tokens: bool) -> None:
        path = directory / SENTENCEPIECE
        self.directory = directory
        self.files = tokenizer_files(directory)
        self.split_special_tokens = split_special_tokens
        if not split_special_tokens:
            raise UserError(
                f"{path}: sentencepiece reads a special token that a text spells as text, always; leave "
                "tokenizer.split_special_tokens out, or name a tokenizer of Hugging Face's"
            )
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: not a sentencepiece model ({error})") from None
        self.vocab_size = self._processor.vocab_size()
        self.eos_id = self._processor.eos_id()
        self.sep_id = self.eos_id
        self.cls_id = self.bos_id = self._processor.bos_id() if self._processor.bos_id() >= 0 else None
        masks = [self._processor.piece_to_id(name) for name in ("<mask>", "[MASK]")]
        self.mask_id = next((mask for mask in masks if mask != self._processor.unk_id()), None)
        self.special_ids = [i for i in range(self.vocab_size) if self._processor.is_control(i)]
        self.special_tokens = [self._processor.id_to_piece(i) for i in self.special_ids]
        if self.eos_id < 0:
            raise UserError(f"{path}: the model has no </s>; train it with eos_id set, so that documents can end")

    @property
    def hugging_face(self) -> PreTrainedTokenizerFast:
        """Raises UserError: there is none."""
        raise UserError(
            f"{self.directory / SENTENCEPIECE}: a bare sentencepiece model, and what is asked for needs a tokenizer of Hugging "
            "Face's; put one beside it as tokenizer.json"
        )

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids, without special tokens."""
        # Preparation has a process for each core.
        return self._processor.encode(texts, num_threads=1)

    def decode(self, ids: list[int]) -> str:
        """Return the text that `ids` stand for."""
        return self._processor.decode(ids)

    def token(self, number: int) -> str:
        """Return how the vocabulary spells an id."""
        return self._processor.id_to_piece(number)

    def meanings(self) -> Meanings:
        """Return what each id stands for."""
        found = {"bos": self.bos_id, "eos": self.eos_id, "cls": self.cls_id, "sep": self.sep_id, "mask": self.mask_id}
        found |= {"pad": self._processor.pad_id(), "unk": self._processor.unk_id()}
        roles = {role: number for role, number in found.items() if number is not None and number >= 0}
        return sentencepiece_meanings(self._processor, roles)

    def description(self) -> None:
        """Return None: it is a model of sentencepiece's."""

    def write(self, folder: Path) -> None:
        """Write the tokenizer into `folder`."""
        copy_files(self.files, self.directory, folder)
