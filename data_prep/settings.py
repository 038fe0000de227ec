"""What data preparation is asked to do: corpora, deduplication, tokenizer, shards."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_prep.steps.base import Step
from data_prep.steps.deduplicate import Deduplicate
from data_prep.steps.language import Language
from data_prep.steps.length import Length
from data_prep.steps.normalize import Normalize
from data_prep.steps.registry import StepEntry
from data_prep.steps.remove_lines import RemoveLines
from data_prep.storage.stores import Remote, is_url
from data_prep.text.condition import Condition
from pipeline.common.config import Fraction, NonNegativeInt, PositiveInt, StrictModel
from pipeline.common.hub import find_directory

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


_KEYS_OF_STEPS = {
    "unicode": "normalize",
    "boilerplate": "remove_lines",
    "min_length": "length",
    "length_unit": "length",
    "languages": "language",
}
"""Keys of a corpus, and the steps that they stand for."""


class DedupeSpansConfig(StrictModel):
    """Lines or paragraphs that other documents hold too, which are removed from a corpus's documents."""

    unit: Literal["line", "paragraph"] = "paragraph"
    """Lines end with a line feed; paragraphs are runs of lines between blank ones, as in CCNet (Wenzek et al. 2020)."""
    min_words: PositiveInt = 5
    """Those of fewer words, as headings are, stay. Where a script puts no spaces between words, each character is one."""
    min_documents: Annotated[int, Field(ge=2)] = 2
    """In how many documents one must stand, of all corpora that have this key, to be removed."""
    keep: Literal["first", "none"] = "first"
    """Whether the first of these documents keeps it. Held-out files come first: what stands in them is not trained on."""


class CorpusConfig(StrictModel):
    """Which documents to read, what is dropped from them, and their share of the blend."""

    name: Annotated[str, Field(pattern=_NAME)] = "text"
    """What the corpus is called, in reports and in `data.weights`."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of the training samples, relative to the other corpora's; where none is given, each by its tokens."""

    corpus: Literal["python_docs"] | None = None
    """An embedded corpus: `python_docs` is the documentation that this Python environment carries."""
    files: list[str] = []
    """Paths, globs or folders of .txt, .jsonl, .ndjson, .json and .parquet files; all but .parquet also behind .gz, .zst, .bz2
    or .xz. A folder stands for all such files in it and below it, in the order of their paths. URLs of any store that fsspec
    knows too: s3://, gs://, hf://, https:// and others."""
    heldout_files: list[str] = []
    """The same, of held-out documents; where empty, `heldout_fraction` of the others is held out."""
    dataset: str | None = None
    """A directory written by `save_to_disk` of Hugging Face's datasets, or a dataset's name on the hub."""
    dataset_config: str | None = None
    """The configuration of a dataset on the hub that has several."""
    dataset_split: str = "train"
    """The split of the dataset that is read."""
    shards: list[str] = []
    """Prefixes (or globs of .idx files) of Megatron shards, taken as they are."""
    heldout_shards: list[str] = []
    """The same, of held-out documents."""

    text_field: str = "text"
    """The key (JSON) or column (parquet, datasets) that holds a document: a string, UTF-8 in bytes, or a list of these, which
    become lines. `a.b` is b in the object or struct a, unless a key or column is spelled so."""
    txt_documents: Literal["blank_line", "file"] = "blank_line"
    """What separates the documents of a .txt file."""
    max_bad_records: NonNegativeInt = 100
    """Records of one file, or of one range of a large one, that may be skipped, and counted, before it is refused."""
    bad_files: Literal["refuse", "skip"] = "refuse"
    """What to do with a file that is empty, breaks off or has no such column: `skip` counts it and keeps what could be read."""

    where: str | None = None
    """A condition on the records' keys or columns, for instance `score >= 3 and language == "en"`; others are dropped."""
    columns: list[str] = []
    """Keys or columns beside the text that go into reports and cleaned text: `id`, `url`, `metadata.score`."""

    max_characters: PositiveInt = 20_000_000
    """Longer documents are dropped: a tokenizer takes some hundred bytes of memory a character."""
    steps: Annotated[list[StepEntry], Field(min_length=1)] | None = None
    """What each document goes through, in order: names of steps, or names with options. Where not given: `normalize`, and what
    the five keys that follow ask for."""
    unicode: Literal["NFC", "NFKC"] = "NFC"
    """The normal form that text is brought into (step `normalize`)."""
    boilerplate: list[str] = []
    """Regular expressions; a line in which one is found is removed (step `remove_lines`)."""
    min_length: NonNegativeInt = 1
    """Shorter documents are dropped (step `length`); NAI drops those under 128."""
    length_unit: Literal["characters", "words"] = "characters"
    """What `min_length` counts."""
    languages: list[Annotated[str, Field(pattern="^[a-z]{2,3}$")]] = []
    """Codes (ISO 639) of the languages that are kept (step `language`); all where none is named."""
    dedupe: Literal["none", "exact", "near"] = "exact"
    """Which duplicates are dropped, within the corpus and between it and all others that are deduplicated."""
    dedupe_spans: DedupeSpansConfig | None = None
    """Which lines or paragraphs are removed from the documents that stay."""

    heldout_fraction: Fraction = 0.01
    """Share of the documents held out, chosen by a hash of their text."""

    @model_validator(mode="after")
    def _one_source(self) -> "CorpusConfig":
        named = [key for key in ("files", "corpus", "dataset", "shards") if getattr(self, key)]
        if len(named) != 1:
            raise ValueError(
                "name one of `files`, `corpus`, `dataset` and `shards`" + (f", not {' and '.join(named)}" if named else "")
            )
        if self.heldout_shards and not self.shards:
            raise ValueError("`heldout_shards` goes with `shards`; text is held out by heldout_files or heldout_fraction")
        for key in ("where", "columns", "steps", "dedupe_spans"):
            if self.shards and getattr(self, key):
                raise ValueError(f"`{key}` is of text that is prepared, and `shards` are taken as they are; leave it out")
        if self.corpus is not None and self.read_columns:
            raise ValueError(f"{self.corpus} has no columns; leave `where` and `columns` out")
        return self

    @model_validator(mode="after")
    def _read_in_one_way(self) -> "CorpusConfig":
        if self.where is not None:
            Condition(self.where)
        steps = self.all_steps  # refused where the keys that stand for them make none
        if "language" in self.columns and any(isinstance(step, Language) for step in steps):
            raise ValueError("columns: the step `language` writes the column `language`; leave one of them out")
        if self.steps is None:
            return self
        if sum(isinstance(step, Deduplicate) for step in self.steps) > 1:
            raise ValueError("steps: `deduplicate` is named twice; corpora are deduplicated once, together")
        if self.late_steps and self.dedupe == "none" and self.dedupe_spans is None:
            raise ValueError("steps: `deduplicate` is named, and `dedupe: none` asks for none; leave one of them out")
        for key, step in _KEYS_OF_STEPS.items():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` is not given beside `steps`; name the step `{step}` there")
        return self

    @property
    def all_steps(self) -> list[Step]:
        """The steps, in the order in which a document goes through them."""
        if self.steps is not None:
            return self.steps
        steps: list[Step] = [Normalize(form=self.unicode)]
        if self.boilerplate:
            steps.append(RemoveLines(patterns=self.boilerplate))
        steps.append(Length(min=max(self.min_length, 1), unit=self.length_unit))
        if self.languages:
            steps.append(Language(keep=self.languages))
        return steps

    @property
    def early_steps(self) -> list[Step]:
        """Those before deduplication: all, where it is not named among them."""
        return self.all_steps[: self._place_of_deduplication]

    @property
    def late_steps(self) -> list[Step]:
        """Those behind deduplication."""
        return self.all_steps[self._place_of_deduplication + 1 :]

    @property
    def _place_of_deduplication(self) -> int:
        steps = self.all_steps
        return next((place for place, step in enumerate(steps) if isinstance(step, Deduplicate)), len(steps))

    @property
    def language(self) -> str | None:
        """The language of the corpus, where its steps keep a single one."""
        kept = [step.keep for step in self.all_steps if isinstance(step, Language)]
        return kept[-1][0] if kept and len(kept[-1]) == 1 else None

    @property
    def read_columns(self) -> list[str]:
        """The keys or columns that are read beside the text."""
        asked = [] if self.where is None else Condition(self.where).columns
        return list(dict.fromkeys([*self.columns, *asked]))


class DedupeConfig(StrictModel):
    """Near-duplicates: MinHash over word n-grams, banded; corpora say by `dedupe` whether they take part."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Estimated Jaccard similarity from which a document counts as another's copy."""
    permutations: PositiveInt = 128
    """Hashes of a document's signature."""
    bands: PositiveInt = 16
    """Signatures that agree in all rows of a band are compared: 16 bands of 8 rows find 99.98 % of the pairs at .9."""
    ngram: PositiveInt = 5
    """Words of an n-gram."""
    memory_mib: PositiveInt = 1024
    """What one process may hold of hashes and bands at a time; what is more stays on disk."""
    examples: NonNegativeInt = 20
    """Dropped documents of each kind that the report shows."""

    @model_validator(mode="after")
    def _bands_divide(self) -> "DedupeConfig":
        if self.permutations % self.bands:
            raise ValueError(f"{self.bands} bands do not divide {self.permutations} permutations")
        return self


class DecontaminationConfig(StrictModel):
    """Passages of evaluation sets, which are looked for in all text and removed from it."""

    sets: Annotated[dict[Annotated[str, Field(pattern=_NAME)], Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    """Names of evaluation sets, and the files of each: paths, URLs, globs or folders of .json, .jsonl, .ndjson, .tsv, .csv,
    .parquet, .txt, .raw and .tokens files; all but .parquet also behind .gz, .bz2 or .zst. Every string in a record or row is
    a text, at any depth; a plain text is one."""
    ngram: PositiveInt = 13
    """Words in a row that a document and a set have in common, whatever their case and what stands between them. Texts of fewer
    words are not looked for."""
    remove: Literal["document", "span", "nothing"] = "document"
    """What goes: a document that has such words, those words out of it, or nothing, and it is only counted."""


class CleanedTextConfig(StrictModel):
    """The text of the documents, written beside the shards."""

    format: Literal["jsonl", "parquet"] = "jsonl"
    """JSON lines, compressed with zstd (`.jsonl.zst`), or Parquet."""
    dropped: bool = False
    """Whether dropped documents are written too, with the reason; as they were when they were dropped."""


class TokenizerConfig(StrictModel):
    """A tokenizer to load (`path`) or to train on the text (`vocab_size`)."""

    path: str | None = None
    """A directory that transformers' AutoTokenizer loads, or one with tokenizer.model alone, which sentencepiece reads; or,
    where there is no such directory, the name of a model on the Hugging Face hub."""
    revision: str | None = None
    """A branch, tag or commit of that model on the hub; its main branch where not given."""
    split_special_tokens: bool = True
    """Whether a special token that is spelled in a text (`<|endoftext|>`) is read as text, rather than as that token's id."""
    vocab_size: PositiveInt | None = None
    """Size of the vocabulary to train."""
    algorithm: Literal["sentencepiece_bpe", "sentencepiece_unigram", "byte_level_bpe", "wordpiece"] = "sentencepiece_bpe"
    """How a tokenizer is trained."""
    family: Literal["gpt2", "bert", "roberta", "llama", "mistral", "qwen2", "qwen3"] = "roberta"
    """Whose special tokens a trained one has; RoBERTa's serve every family."""
    sample_characters: PositiveInt = 10_000_000
    """Characters of text that training reads, taken evenly from the whole corpus."""

    @model_validator(mode="after")
    def _load_or_train(self) -> "TokenizerConfig":
        if (self.path is None) == (self.vocab_size is None):
            raise ValueError("name either `path` (load) or `vocab_size` (train), and not both")
        if self.path is None and self.revision is not None:
            raise ValueError("`revision` is of what `path` names on the Hugging Face hub; leave it out")
        if self.algorithm == "wordpiece" and self.family != "bert":
            raise ValueError(f"algorithm: wordpiece takes bert's special tokens, not {self.family}'s; set family: bert")
        if self.algorithm.startswith("sentencepiece") and self.family in ("gpt2", "qwen2", "qwen3"):
            raise ValueError(
                f"algorithm: {self.algorithm} needs an unknown token, which {self.family} lacks; set family: roberta, or "
                "algorithm: byte_level_bpe"
            )
        return self

    @property
    def directory(self) -> Path | None:
        """Where the tokenizer to load lies, downloaded if need be, None for one to train.

        Raises UserError as `find_directory` does.
        """
        if self.path is None:
            return None
        return find_directory(self.path, self.revision, f"tokenizer.path: {self.path!r} is no directory here", weights=False)


class DataPrepConfig(StrictModel):
    """One preparation: corpora through deduplication and a tokenizer into shards below `output_dir`."""

    output_dir: str
    """A folder; or a URL of a store, to which the finished folder is uploaded."""
    work_dir: str | None = None
    """Where a folder is prepared that goes to a store, shared by all processes; by default one of the output's name with
    `.prepared` behind it, in the current directory."""
    corpora: Annotated[list[CorpusConfig], Field(min_length=1)]
    """What is prepared, in order."""
    dedupe: DedupeConfig = DedupeConfig()
    """How near-duplicates are found."""
    decontamination: DecontaminationConfig | None = None
    """What is removed since evaluation sets hold it."""
    cleaned_text: CleanedTextConfig | None = None
    """Whether, and how, the text that is left is written too."""
    tokenizer: TokenizerConfig
    """The tokenizer that makes ids of text."""
    sequences: Literal["document", "sentence"] = "document"
    """What a sequence of a shard is: a document (GPT's shards), or a sentence of one (BERT's)."""
    part_mib: PositiveInt = 16
    """Text of a part: what is done anew after a kill, and what processes share out among them."""

    @model_validator(mode="after")
    def _corpora_agree(self) -> "DataPrepConfig":
        names = [corpus.name for corpus in self.corpora]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"corpora: the name {name!r} is used twice")
        weighted = [corpus.weight is not None for corpus in self.corpora]
        if any(weighted) and not all(weighted):
            raise ValueError(
                f"corpora: {names[weighted.index(False)]!r} has no weight and others have; give all of them one, or none"
            )
        if is_url(self.output_dir) and any(corpus.shards for corpus in self.corpora):
            raise ValueError("output_dir: shards are taken where they lie, in a file system; name a folder in one, not a URL")
        if self.work_dir is not None and not is_url(self.output_dir):
            raise ValueError("work_dir: goes with an output_dir at a store; leave it out")
        if self.work_dir is not None and (is_url(self.work_dir) or Path(self.work_dir).name in ("", "..")):
            raise ValueError(f"work_dir: {self.work_dir!r} is no name of a folder here; give one, as /scratch/prepared")
        if self.tokenizer.path is None and all(corpus.shards for corpus in self.corpora):
            raise ValueError("tokenizer: shards need the tokenizer that they were made with (path)")
        if not any(
            corpus.heldout_shards if corpus.shards else corpus.heldout_files or corpus.heldout_fraction
            for corpus in self.corpora
        ):
            raise ValueError("corpora: nothing is held out; give heldout_files, heldout_fraction or heldout_shards")
        return self

    @property
    def steps(self) -> list[Step]:
        """The steps of all corpora whose text is prepared."""
        return [step for corpus in self.corpora if not corpus.shards for step in corpus.all_steps]

    @property
    def folder(self) -> Path:
        """Where it is prepared."""
        if not is_url(self.output_dir):
            return Path(self.output_dir)
        return Path(self.work_dir or f"{Remote(self.output_dir).name}.prepared")
