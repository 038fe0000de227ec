"""The recipe's data: prepared shards, or text to prepare."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_prep.settings import CorpusConfig, TokenizerConfig
from data_prep.storage.stores import is_url
from pipeline.common.config import PositiveInt, StrictModel
from pipeline.recipe.models import Positive

Weights = Annotated[dict[str, Positive], Field(min_length=1)]


class DataConfig(StrictModel):
    """Prepared shards, or text to prepare."""

    output_dir: str = "data"
    """Where text is prepared; equal text and tokenizer are prepared once."""
    shards: str | None = None
    """A folder prepared earlier, of one or more corpora, instead of `text`."""
    weights: Weights | None = None
    """The corpora of `shards` to train on, each with its share of the training samples, relative to the others'; one that is
    not named is left out. Where not given: all, by the weights that they were prepared with, or by their tokens."""
    text: CorpusConfig | None = None
    """A corpus to prepare where the run starts, instead of `shards`."""
    tokenizer: TokenizerConfig | None = None
    """The target's tokenizer where not given: `target.tokenizer`, or the source directory's own."""
    sequence_length: PositiveInt = 128
    """Tokens of a sequence."""
    attention: Literal["window", "document"] = "window"
    """What a token sees: its window, or of that its own document, whose positions then count from its first token there.
    Either way the last token of a document is scored on the first of the next."""
    pairs: Literal["nsp", "sop"] | None = None
    """BERT: sentence pairs, and a second loss on whether B follows A (next sentence prediction) or whether the two stand in
    their order (sentence order prediction). The shards' sequences are sentences."""

    @model_validator(mode="after")
    def _one_origin(self) -> "DataConfig":
        if (self.shards is None) == (self.text is None):
            raise ValueError("name either `shards` (prepared earlier) or `text` (to prepare), and not both")
        if self.shards is not None and is_url(self.shards):
            raise ValueError("`shards` has to be a local folder; run `python -m data_prep fetch URL DIR`, and name DIR")
        if is_url(self.output_dir):
            raise ValueError("`output_dir` has to be a local folder; `python -m data_prep run` writes to stores")
        if self.shards is not None and self.tokenizer is not None:
            raise ValueError("`tokenizer` goes with `text`; prepared shards carry their own")
        if self.shards is None and self.weights is not None:
            raise ValueError("`weights` goes with `shards`; `text` is a single corpus")
        if self.pairs is not None and self.attention == "document":
            raise ValueError("attention: document excludes `pairs`, which may be of two documents; leave one of them out")
        return self
