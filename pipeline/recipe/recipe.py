"""What a run is, whole: typed, validated, printable."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import Field, model_validator

from pipeline.common.config import NonNegativeInt, PositiveInt, StrictModel
from pipeline.recipe.data import DataConfig
from pipeline.recipe.growth import GrowthConfig
from pipeline.recipe.models import ModelConfig, Positive, TargetConfig
from pipeline.recipe.settings import (
    CheckpointingConfig,
    EvaluationConfig,
    FlopsConfig,
    GuardConfig,
    OptimizerConfig,
    RouterConfig,
)
from pipeline.recipe.stages import (
    GROWN_STAGE,
    SOURCE_STAGE,
    STAGE_KINDS,
    GrownPhase,
    LengthConfig,
    ModelPhase,
    Phases,
    ScheduleConfig,
    Stage,
    TrainStage,
    any_stage,
)


class SourceConfig(LengthConfig):
    """The small model: one that is there, or a model trained from scratch in this run, for so long.

    A `model` without a length is left at its initialization: with `target: {}`, the stages train it from scratch.
    """

    path: str | None = None
    """A Hugging Face directory, a run directory, a DeepSpeed checkpoint (ours, or of transformers' Trainer, accelerate or
    DeepSpeed alone) or a folder of them; or, where there is no such directory, the name of a model on the Hugging Face hub."""
    revision: str | None = None
    """A branch, tag or commit of that model on the hub; its main branch where not given."""
    config: str | None = None
    """The model's config.json, or a directory that holds it (and the tokenizer), for a checkpoint of accelerate's or
    DeepSpeed's that has none in it or one folder up."""
    foreign: bool = False
    """Whether a checkpoint with a config.json of its own may be there that does not say what its files should be."""
    model: ModelConfig | None = None
    """A model to build here, and to train for the length that is given beside it."""
    lr: Positive | None = None
    """Peak learning rate of that training; the optimizer's where not given."""

    @model_validator(mode="after")
    def _one_origin(self) -> "SourceConfig":
        if (self.path is None) == (self.model is None):
            raise ValueError("name either `path` (a Hugging Face directory) or `model` (trained here), and not both")
        if self.model is None and self.length is not None:
            raise ValueError("`steps` (or epochs, tokens, flops) goes with `model`: how long the source is trained")
        if self.path is None and (self.foreign or self.config is not None or self.revision is not None):
            raise ValueError("`foreign`, `config` and `revision` go with `path`; leave them out")
        return self


if TYPE_CHECKING:
    AnyStage: TypeAlias = Stage
else:
    AnyStage = any_stage(STAGE_KINDS)


class Recipe(StrictModel):
    """One run, whole; `read_recipe` reads one whose stages are left to `progressive`."""

    run_dir: str
    """The folder of the run, which everything is written to."""
    seed: NonNegativeInt = 1234
    """What all random numbers follow from."""
    train_batch_size: PositiveInt = 32
    """Sequences in a step, all ranks together. Used where the DeepSpeed file says "auto"."""
    train_micro_batch_size_per_gpu: PositiveInt = 32
    """Most sequences that one rank runs at once; accumulation follows. Used where the DeepSpeed file says "auto"."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """The kernels that compute attention."""
    experts_implementation: Literal["grouped_mm", "eager"] = "grouped_mm"
    """Experts of a mixture run by torch's grouped products, or (eager) one after the other."""
    activation_checkpointing: bool = False
    """Keep the input of each layer alone for the backward pass, and run the layer again there."""
    compile: bool = False
    """Run each layer through torch.compile."""
    fused_linear_cross_entropy: bool = False
    """Run the output matrix with the loss, a chunk of rows at a time, while training: a batch's logits are never whole."""
    make_vocab_size_divisible_by: PositiveInt = 1
    """Round the rows of the output matrix up to a multiple of this inside its product, while training: tensor cores are slow
    at others than multiples of 64. Weights, checkpoints and exported models have the true vocabulary."""
    data: DataConfig
    """What is trained on."""
    source: SourceConfig
    """The small model, which grows."""
    target: TargetConfig
    """The large model, as far as it differs."""
    growth: GrowthConfig = GrowthConfig()
    """How the source becomes the target, and how later stages grow that do not say otherwise."""
    stages: Annotated[list[AnyStage], Field(min_length=1)]
    """What is done with the target: train stages, and between them, where there are any, grow stages."""
    final_model: ModelConfig | None = None
    """The model that the run is to end with, where it was named before its smaller sizes were; a run whose growths come to
    another is refused."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """What steps the parameters."""
    router: RouterConfig | None = None
    """Of mixtures of experts."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over the steps."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured while training goes on."""
    checkpointing: CheckpointingConfig = CheckpointingConfig()
    """When the run is saved."""
    guard: GuardConfig = GuardConfig()
    """What is done when something goes wrong."""
    flops: FlopsConfig = FlopsConfig()
    """How FLOPs are counted."""

    @classmethod
    def other_words(cls) -> list[str]:
        """The section that is written out before the recipe is read."""
        return ["progressive"]

    @property
    def phases(self) -> list[ModelPhase]:
        """The models that the recipe trains, in turn; the source's own phase is empty where it is not trained here."""
        phases, length = Phases(self.growth), self.source.length
        if length is not None:
            phases.train(TrainStage.model_validate({"name": SOURCE_STAGE, "lr": self.source.lr, length[0]: length[1]}))
        phases.grow(GROWN_STAGE, self.target, self.growth)
        return phases.apply(self.stages)

    @property
    def grown_phases(self) -> list[GrownPhase]:
        """The phases of the models that are grown in the run, of which there is one or more."""
        return [phase for phase in self.phases if isinstance(phase, GrownPhase)]

    @property
    def train_stages(self) -> list[TrainStage]:
        """What the grown models are trained by, the source's own training left out."""
        return [stage for phase in self.grown_phases for stage in phase.stages]

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        names = [SOURCE_STAGE, GROWN_STAGE, *(stage.name for stage in self.stages)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"stages: the name {name!r} is used twice ({SOURCE_STAGE!r} is the source's training, {GROWN_STAGE!r} the "
                    "moment after growth)"
                )
        if not all(phase.stages for phase in self.grown_phases):
            raise ValueError(
                "stages: each growth needs training before and after it; begin and end with a train stage, one between two"
            )
        growths = [phase.growth for phase in self.grown_phases]
        if self.optimizer.name != "adamw" and any(growth.element_rates for growth in growths):
            raise ValueError(
                f"growth.element_rates: only adamw has rates of elements; with {self.optimizer.name} leave the key out"
            )
        if self.optimizer.width_rates != "none" and any(growth.element_rates for growth in growths):
            raise ValueError(
                "growth.element_rates: an element keeps the source's rate, which optimizer.width_rates changes; leave one out"
            )
        if self.source.model is not None and self.source.length is None and self.growth.optimizer_state == "grow":
            raise ValueError("growth.optimizer_state: grow needs a source that was trained; give it `steps`, or choose fresh")
        if self.data.text is not None and self.data.tokenizer is None and self.source.path is None:
            raise ValueError("data.tokenizer: name one to load (path) or to train (vocab_size)")
        self._check_tokenizers()
        if self.data.text is not None and any(stage.weights for stage in self.train_stages):
            raise ValueError("stages: `weights` goes with data.shards; `data.text` is a single corpus")
        if self.data.attention == "document" and self.attn_implementation == "flash_attention_2":
            raise ValueError("data.attention: document needs a mask, which flash_attention_2 does not take; use sdpa")
        return self

    def _check_tokenizers(self) -> None:
        """Raise ValueError for a target's tokenizer that cannot be that of the run's text, of which there is one."""
        for phase in self.grown_phases[1:]:
            if phase.target.tokenizer is not None:
                raise ValueError(
                    f"stages.{phase.name}.grow.tokenizer: the text of a run has one tokenizer; name it as target.tokenizer, or "
                    "start another run from this one's model"
                )
        if self.target.tokenizer is None:
            return
        if self.source.model is not None:
            raise ValueError(
                "target.tokenizer: the source is trained here on the target's text, and has its tokenizer already; leave it "
                "out, or name a source by source.path"
            )
        if self.data.tokenizer is not None and self.data.tokenizer.path is None:
            raise ValueError("data.tokenizer: the text's tokenizer is target.tokenizer, and not trained here; leave it out")

    def to_yaml(self) -> str:
        """The recipe with every default filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def to_short_yaml(self) -> str:
        """The same recipe without keys that are null by default."""
        whole, given = self.model_dump(mode="json"), self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(_without_nulls(whole, given), sort_keys=False)


def _without_nulls(value: Any, given: Any) -> Any:
    """Leave out what is null and not among what is `given`, the same without defaults."""
    if isinstance(value, dict):
        given = given if isinstance(given, dict) else {}
        return {key: _without_nulls(each, given.get(key)) for key, each in value.items() if each is not None or key in given}
    if isinstance(value, list) and isinstance(given, list):
        return [_without_nulls(each, other) for each, other in zip(value, given, strict=True)]
    return value
