"""What a run is: typed, validated, printable."""

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from data_prep.config import Fraction, PositiveInt, StrictModel, read_yaml, validate
from data_prep.errors import UserError
from data_prep.settings import CorpusConfig, NonNegativeInt, TokenizerConfig

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


WidthName = Literal[
    "auto",
    "fpi",
    "aki",
    "nai",
    "direct_copy",
    "zero_pad",
    "average_pad",
    "sqrt_count",
    "hypercloning",
    "exact_aki",
]
DepthName = Literal["auto", "stack", "random", "last_layer", "interleave", "list"]


class ModelConfig(StrictModel):
    """A model to build from scratch; keys as in Hugging Face's configurations."""

    family: Literal["gpt2", "bert", "roberta", "llama", "mistral", "qwen2", "qwen3"]
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    """Query heads share them in groups (Llama, Mistral, Qwen); `num_attention_heads` where not given."""
    head_dim: PositiveInt | None = None
    """Channels of a head; `hidden_size` divided by the heads where not given, and for GPT-2, BERT and RoBERTa always."""
    intermediate_size: PositiveInt | None = None
    """Four times `hidden_size` where not given."""
    vocab_size: PositiveInt | None = None
    """The tokenizer's size where not given."""
    max_position_embeddings: PositiveInt | None = None
    """The training sequence length where not given."""
    tie_word_embeddings: bool = True
    dropout: Fraction = 0.0
    initializer_range: Positive = 0.02

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}")
        return self


class SourceConfig(StrictModel):
    """The small model: a Hugging Face directory, or a model trained from scratch in this run."""

    path: str | None = None
    model: ModelConfig | None = None
    steps: PositiveInt | None = None
    """Steps of training from scratch."""
    lr: Positive | None = None
    """Peak learning rate of that training; the optimizer's where not given."""

    @model_validator(mode="after")
    def _one_origin(self) -> "SourceConfig":
        if (self.path is None) == (self.model is None):
            raise ValueError("name either `path` (a Hugging Face directory) or `model` (trained here), and not both")
        if (self.model is None) != (self.steps is None):
            raise ValueError("`steps` goes with `model`: how long the source is trained")
        return self


class TargetConfig(StrictModel):
    """The large model: the sizes that differ from the source's."""

    hidden_size: PositiveInt | None = None
    num_hidden_layers: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None
    """In the source's ratio to `hidden_size` where not given. GPT-2, BERT and RoBERTa need `hidden_size` / `head_dim`."""
    num_key_value_heads: PositiveInt | None = None
    """Where not given: in the source's ratio to the query heads, or, where that does not divide, as many as the source's."""
    head_dim: PositiveInt | None = None
    """A multiple of the source's where positions are rotary."""
    intermediate_size: PositiveInt | None = None
    """In the source's ratio to `hidden_size` where not given."""
    vocab_size: PositiveInt | None = None
    max_position_embeddings: PositiveInt | None = None
    """RoBERTa's counts two rows more than it has positions."""
    dropout: Fraction | None = 0.0
    """Whatever the source was trained with; null: as the source has it. Above 0 the losses depend on the number of ranks."""


class GrowthConfig(StrictModel):
    """How the source becomes the target."""

    width: WidthName = "fpi"
    """The width operator; `pipeline/growth/operators.py` says what each does. `auto` takes one that is exact."""
    depth: DepthName = "stack"
    """The depth operator; `pipeline/growth/depth.py` says what each does. `auto` takes one that is exact."""
    map: Literal["balanced", "random"] = "balanced"
    """fpi, aki: which source index a new one copies: in turn, or drawn uniformly (bert2BERT eq. 5-6)."""
    neighbours: Literal["block", "last"] = "block"
    """nai: the last n heads in order, or the last head n times."""
    paper_factor: bool = False
    """nai: multiply queries and keys by (D_t / D_s)^(1/4) (NAI eq. 14), which is right for scores over sqrt(D) only."""
    scaled: bool = False
    """zero_pad: new units that write nothing and a residual stream scaled for the norm, exact under RMSNorm."""
    noise: NonNegative = 0.0
    """nai: noise on new rows and columns; zero_pad: the small values; `symmetry`: its size. As a share of the tensor's
    own standard deviation (`split`: of the weight)."""
    symmetry: Literal["none", "paired", "split"] = "none"
    """Operators that copy: tell twins apart and keep the function. `paired` adds +e to one twin's in-column and -e to the
    other's; `split` divides 1/C unevenly between them."""
    layers: list[NonNegativeInt] | None = None
    """depth: list: the source layer of each target layer."""
    vocabulary: Literal["mean", "random"] = "mean"
    """Rows of a larger vocabulary: the mean of the old ones, or the model's own initialization."""
    positions: Literal["copy", "interpolate"] = "copy"
    """Rows of a longer position table: the old ones again, or all of them stretched."""
    norm_statistics: Literal["stock", "weighted"] = "stock"
    """`weighted`: operators that copy: norms weigh every channel by 1/C, which is exact at any ratio, and turn to stock
    norms over `norm_anneal_steps` steps of training."""
    norm_anneal_steps: PositiveInt = 1000
    optimizer_state: Literal["grow", "fresh"] = "fresh"
    """`grow`: Adam's moments grow with the weights; the source must have them (a run, a ZeRO checkpoint)."""
    element_rates: bool = False
    """With `optimizer_state: grow`: rates and eps of each element such that the source's own dynamics go on."""

    @model_validator(mode="after")
    def _options_belong(self) -> "GrowthConfig":
        for option, operators in _OPTION_OF.items():
            if getattr(self, option) != type(self).model_fields[option].default and self.width not in operators:
                raise ValueError(f"`{option}` is an option of width: {' or '.join(operators)}, not of {self.width}")
        if (self.layers is not None) != (self.depth == "list"):
            raise ValueError("`layers` goes with depth: list, which takes the source layer of each target layer")
        noisy = self.width in ("nai", "zero_pad") or self.symmetry != "none"
        if self.noise and not noisy:
            raise ValueError(f"`noise` is an option of width: nai or zero_pad, or of `symmetry`; {self.width} alone has none")
        if self.symmetry != "none" and not self.noise:
            raise ValueError(f"`symmetry: {self.symmetry}` needs a size: set `noise`, for instance to 0.25")
        if self.symmetry == "split" and self.noise > 1:
            raise ValueError("`noise` with symmetry: split is a share of the weight, at most 1")
        if self.width == "zero_pad" and self.scaled and self.noise:
            raise ValueError("`scaled` zero_pad is exact and adds no noise; leave one of the two out")
        if self.norm_anneal_steps != 1000 and self.norm_statistics == "stock" and self.width != "auto":
            raise ValueError("`norm_anneal_steps` goes with norm_statistics: weighted")
        if self.element_rates and self.optimizer_state != "grow":
            raise ValueError("`element_rates` goes with optimizer_state: grow")
        return self


_COPYING = ("auto", "fpi", "nai", "hypercloning", "sqrt_count", "average_pad", "exact_aki")
_OPTION_OF = {
    "map": ("fpi", "aki"),
    "neighbours": ("nai",),
    "paper_factor": ("nai",),
    "scaled": ("zero_pad",),
    "symmetry": _COPYING,
    "norm_statistics": ("fpi", "nai", "hypercloning"),
}


class DataConfig(StrictModel):
    """Prepared shards, or text to prepare."""

    output_dir: str = "data"
    """Where text is prepared; equal text and tokenizer are prepared once."""
    shards: str | None = None
    """A folder prepared earlier, of one or more corpora, instead of `text`."""
    weights: Annotated[dict[str, Positive], Field(min_length=1)] | None = None
    """The corpora of `shards` to train on, each with its share of the training samples, relative to the others'; one that is
    not named is left out. Where not given: all, by the weights that they were prepared with, or by their tokens."""
    text: CorpusConfig | None = None
    tokenizer: TokenizerConfig | None = None
    """The source directory's own tokenizer where not given."""
    sequence_length: PositiveInt = 128
    attention: Literal["window", "document"] = "window"
    """What a token sees: its window, or of that its own document, whose positions then count from its first token there.
    Either way the last token of a document is scored on the first of the next."""

    @model_validator(mode="after")
    def _one_origin(self) -> "DataConfig":
        if (self.shards is None) == (self.text is None):
            raise ValueError("name either `shards` (prepared earlier) or `text` (to prepare), and not both")
        if self.shards is not None and self.tokenizer is not None:
            raise ValueError("`tokenizer` goes with `text`; prepared shards carry their own")
        if self.shards is None and self.weights is not None:
            raise ValueError("`weights` goes with `shards`; `text` is a single corpus")
        return self


class StageConfig(StrictModel):
    """One stage of the target's training."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    steps: PositiveInt
    submodel_layers: PositiveInt | None = None
    """Layers per block l_b: each step trains the top block of one random sub-model and the head
    (bert2BERT algorithm 2). Where not given the full model is trained."""
    lr: Positive | None = None
    """Peak learning rate of this stage; the optimizer's where not given."""


class OptimizerConfig(StrictModel):
    """AdamW; no decay on norms and biases."""

    lr: Positive = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.01
    gradient_clipping: NonNegative = 1.0
    """Largest global gradient norm; 0 turns clipping off. Used where the DeepSpeed file says "auto"."""


class ScheduleConfig(StrictModel):
    """The learning rate over the steps of one model's training, all its stages together."""

    name: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after the warmup, to `final_ratio` of the peak."""
    warmup_steps: NonNegativeInt = 0
    final_ratio: Fraction = 0.0


class EvaluationConfig(StrictModel):
    """Loss on held-out text."""

    every: PositiveInt = 100
    """Steps between evaluations; there is one at the end of each stage in any case."""
    windows: PositiveInt = 64
    """Held-out windows, the same ones each time."""


class CheckpointingConfig(StrictModel):
    """When the run is saved."""

    every: PositiveInt = 200
    """Steps between checkpoints; there is one at the end of each stage in any case."""
    keep: PositiveInt = 2
    """Complete checkpoints that stay."""


class Recipe(StrictModel):
    """One run, whole."""

    run_dir: str
    seed: NonNegativeInt = 1234
    train_batch_size: PositiveInt = 32
    """Sequences in a step, all ranks together. Used where the DeepSpeed file says "auto"."""
    train_micro_batch_size_per_gpu: PositiveInt = 32
    """Most sequences that one rank runs at once; accumulation follows. Used where the DeepSpeed file says "auto"."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    data: DataConfig
    source: SourceConfig
    target: TargetConfig
    growth: GrowthConfig = GrowthConfig()
    stages: Annotated[list[StageConfig], Field(min_length=1)]
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpointing: CheckpointingConfig = CheckpointingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        names = [SOURCE_STAGE, GROWN_STAGE, *(stage.name for stage in self.stages)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"stages: the name {name!r} is used twice ({SOURCE_STAGE!r} is the source's training, {GROWN_STAGE!r} the "
                    "moment after growth)"
                )
        if self.data.text is not None and self.data.tokenizer is None and self.source.path is None:
            raise ValueError("data.tokenizer: name one to load (path) or to train (vocab_size)")
        if self.data.attention == "document" and self.attn_implementation == "flash_attention_2":
            raise ValueError("data.attention: document needs a mask, which flash_attention_2 does not take; sdpa would do")
        return self

    def to_yaml(self) -> str:
        """The recipe with every default filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


SOURCE_STAGE = "source"
"""The name under which the source's own training is logged."""

GROWN_STAGE = "grown"
"""The name under which the evaluation right after growth is logged."""


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Return the recipe in `path` with `key.sub=value` overrides applied; values are YAML.

    Raises UserError naming the file, the key and what would do.
    """
    written = read_yaml(path)
    content = copy.deepcopy(written)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"{override}: not an override; write key.sub=value, for instance optimizer.lr=3e-4")
        _set(content, key, _parse(value))
    try:
        return validate(Recipe, content, str(path))
    except UserError:
        # Where the file alone would do, the command line is to blame.
        validate(Recipe, written, str(path))
        return validate(Recipe, content, "command line")


def _parse(value: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    if isinstance(parsed, str):  # YAML 1.1 takes 3e-4 for a string
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _set(content: dict[str, Any] | list[Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    here: Any = content
    for parent in parents:
        here = here[_index(here, parent, key)] if isinstance(here, list) else here.setdefault(parent, {})
        if not isinstance(here, dict | list):
            raise UserError(f"{key}={value}: {parent!r} is a single value, no section")
    here[_index(here, last, key) if isinstance(here, list) else last] = value


def _index(items: list[Any], part: str, key: str) -> int:
    """The place of a list's item, by number or by its `name`."""
    for number, item in enumerate(items):
        if part == str(number) or (isinstance(item, dict) and item.get("name") == part):
            return number
    raise UserError(f"{key}: the list has {len(items)} items and none is {part!r}; count from 0 or use an item's name")
