"""The plan: which inputs there are, what they hold, and the slices in which they are read."""

from pydantic import BaseModel, Field

from data_prep.settings import CorpusConfig, DataPrepConfig
from data_prep.storage.stores import is_url
from data_prep.text.input_ranges import InputRange
from pipeline.common.config import StrictModel


class Input(BaseModel):
    """An input as the plan found it."""

    name: str
    """A path or URL, but for the embedded corpus and the hub's datasets."""
    size: int
    digest: str
    """The content's hash; of a store's file what the store says of it, where it says something: `etag:`, `blob:` (the Hugging
    Face hub's), `modified:` (a web server's)."""
    modified: int = 0
    """Nanoseconds since 1970, in a draft; the frozen plan has none, so that it depends on contents alone."""

    @property
    def identity(self) -> str:
        """What the plan's digest has of it: the content's hash, and of what a store says that it has in this place."""
        return f"{self.name} {self.size} {self.digest}" if is_url(self.name) and ":" in self.digest else self.digest


class GivenShard(BaseModel):
    """A shard that is taken as it is."""

    corpus: str
    split: str
    prefix: str


class InputSlice(BaseModel):
    """What one process reads at a time: neighbouring ranges of one corpus's inputs."""

    name: str
    corpus: str
    heldout: bool
    pieces: list[InputRange]

    @property
    def size(self) -> int:
        """About how many bytes of text there are."""
        return sum(input_range.size for input_range in self.pieces)


class Plan(StrictModel):
    """What a preparation does, settled before it begins."""

    format: int
    digest: str
    """Of everything that the shards depend on."""
    config: DataPrepConfig
    tokenizer: str | None
    """The given tokenizer's class, and hashes of its files."""
    inputs: list[Input]
    slices: list[InputSlice]
    """Held-out ones first: documents are numbered in this order, and of duplicates the first stays."""
    shards: list[GivenShard]
    evaluation_sets: dict[str, list[str]] = Field(default_factory=dict)
    """The files of the sets whose passages are looked for."""
    libraries: dict[str, str] = Field(default_factory=dict)
    """Distributions that the steps' outcome depends on, and their versions."""
    left_out: list[str]
    """What of the folders that are named is not read, in words."""

    @property
    def files(self) -> list[Input]:
        """The inputs that are files, here or at a store."""
        others = {name for corpus in self.config.corpora for name in (corpus.corpus, corpus.dataset)}
        return [item for item in self.inputs if item.name not in others]

    @property
    def step_files(self) -> list[Input]:
        """The inputs that a step depends on, a class of the user's for instance."""
        names = {str(path) for step in self.config.steps for path in step.files}
        return [item for item in self.inputs if item.name in names]

    def corpus(self, name: str) -> CorpusConfig:
        """Return a corpus's settings."""
        return next(corpus for corpus in self.config.corpora if corpus.name == name)
