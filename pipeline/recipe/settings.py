"""The recipe's settings of training: optimizer, evaluation, checkpoints, guard, FLOPs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.common.config import Fraction, NonNegative, NonNegativeInt, PositiveInt, StrictModel
from pipeline.recipe.models import Positive


class OptimizerConfig(StrictModel):
    """The optimizer; no decay on norms and biases."""

    name: Literal["adamw", "lion", "muon"] = "adamw"
    """`muon` steps the matrices of layers by orthogonalized momentum, and everything else as adamw does."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    """adamw, lion: decay of the running means of gradients and of their squares."""
    eps: Positive = 1e-8
    """adamw: what is added to the root of the mean square."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay of matrices."""
    decay_embeddings: bool = True
    """Whether embedding matrices decay, a tied head's among them."""
    momentum: Fraction = 0.95
    """muon: of the matrices."""
    muon_lr: Positive | None = None
    """muon: the matrices' peak rate, scaled as `lr` is over the steps; `lr` where not given."""
    width_rates: Literal["none", "mup", "spectral"] = "none"
    """How a tensor's rate follows from the model's width, so that one `lr` serves models of several widths; see
    docs/how-to/stages.md."""
    base_width: PositiveInt | None = None
    """width_rates: the hidden_size of the model for which `lr` was found."""
    gradient_clipping: NonNegative = 1.0
    """Largest global gradient norm; 0 turns clipping off. Used where the DeepSpeed file says "auto"."""

    @model_validator(mode="after")
    def _options_belong(self) -> "OptimizerConfig":
        for option, optimizers in {"momentum": ("muon",), "muon_lr": ("muon",), "eps": ("adamw", "muon")}.items():
            if self.name not in optimizers and getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(f"`{option}` is an option of name: {' or '.join(optimizers)}, not of {self.name}")
        if (self.width_rates == "none") != (self.base_width is None):
            raise ValueError("`width_rates` and `base_width`, the hidden_size for which `lr` was found, go together; name both")
        return self


class RouterConfig(StrictModel):
    """What the routers of a mixture of experts learn by beside the loss of tokens."""

    router_aux_loss_coef: NonNegative | None = None
    """Weight of the load-balancing loss; the configuration's own key of that name where not given, and 0 turns it off."""
    router_z_loss_coef: NonNegative = 0.0
    """Weight of the router's z-loss, which keeps its logits small."""
    router_bias_update_rate: NonNegative = 0.0
    """By how much a step moves the bias by which experts are chosen, in families that have one (DeepSeek-V3)."""


class EvaluationConfig(StrictModel):
    """Loss on held-out text, and zero-shot tasks."""

    every: PositiveInt = 100
    """Steps between evaluations; there is one at the end of each stage in any case."""
    windows: PositiveInt = 64
    """Held-out windows, the same ones each time."""
    tasks: list[str] = []
    """Zero-shot tasks that score the model at the end of each stage: wikitext2, wikitext103, ptb, lambada, text:FILE."""
    data: list[str] | None = None
    """Folders with the tasks' files; the hub's where none is given."""
    tasks_every: PositiveInt | None = None
    """Steps between scores during a stage; there are none where not given."""
    tasks_limit: PositiveInt | None = None
    """Documents or passages of each task that are scored, from the first on; all where not given."""
    tasks_token_every: PositiveInt = 1
    """Masked models: every so-many-th token is scored, each by a separate pass."""

    @model_validator(mode="after")
    def _tasks_named(self) -> "EvaluationConfig":
        if not self.tasks:
            for option in ("data", "tasks_every", "tasks_limit"):
                if getattr(self, option) is not None:
                    raise ValueError(f"`{option}` goes with `tasks`; name some")
        return self


class CheckpointingConfig(StrictModel):
    """When the run is saved; there is a checkpoint at the end of each stage in any case."""

    every: PositiveInt = 200
    """Steps between checkpoints."""
    every_minutes: Positive | None = None
    """Minutes after the last checkpoint at which there is another, whatever the steps."""
    keep: PositiveInt = 2
    """Newest whole checkpoints that stay."""
    keep_every: PositiveInt | None = None
    """Checkpoints of steps that are multiples of this stay for good."""
    asynchronous: bool = False
    """Write while training goes on, from a copy in the host's memory."""


class GuardConfig(StrictModel):
    """What is done about losses and gradients that are no numbers, about spikes, and about ranks that stall.

    A step with a NaN or infinite loss or gradient is skipped on all ranks.
    """

    skipped_steps: PositiveInt = 5
    """Steps skipped in a row after which the run goes back to its last checkpoint, and past the data in between."""
    spike: Annotated[float, Field(gt=1)] | None = None
    """A loss above this many times the mean of the last `spike_window` is a spike, from which the run goes back likewise."""
    spike_window: PositiveInt = 50
    """Losses of the same stage, and of the same depth where sub-models are trained; until there are so many none is a spike."""
    rewinds: NonNegativeInt = 3
    """Times that the run goes back before it stops for good."""
    stall_minutes: Positive = 30
    """Minutes in which nothing gets on (no step, no batch of an evaluation, no read of a growth, no checkpoint done), after
    which a run ends with a message that names the rank."""


class FlopsConfig(StrictModel):
    """How FLOPs are counted and compared."""

    causal_scores: Literal["full", "half"] = "full"
    """Attention scores of causal models: as the mathematics has them, or the half that causal kernels compute."""
    peak_tflops: Positive | None = None
    """The device's peak in the precision of the run, for MFU; looked up where known, else measured."""
