"""The tokenizer that stage `tokenizer` left, as far as the later stages need it."""

from pathlib import Path

from pydantic import BaseModel

from data_prep.encoding.choice import Choice
from data_prep.encoding.reference import HuggingFace, Reference, SentencePiece
from data_prep.jobs.job import WORK
from data_prep.manifest import TOKENIZER
from data_prep.tokenizers.files import SENTENCEPIECE

DESCRIPTION = f"{WORK}/tokenizer/description.json"
"""What AutoTokenizer made of the files, as tokenizer.json has it, so that it is made once."""


class ProvidedTokenizer(BaseModel):
    """Facts of the stage."""

    digest: str
    """Its class, and hashes of its files."""
    vocab_size: int
    eos_id: int
    sentencepiece: bool
    """Whether it is a bare model of sentencepiece's."""
    encoding: Choice
    remarks: tuple[str, ...]

    def reference(self, root: Path, split_special_tokens: bool) -> Reference:
        """Return the library whose ids count, ready to encode, in a job's folder."""
        if self.sentencepiece:
            return SentencePiece(root / TOKENIZER / SENTENCEPIECE)
        return HuggingFace(root / DESCRIPTION, split_special_tokens)
