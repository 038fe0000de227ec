"""How a model is trained on a GPU: by our engine, and by bare PyTorch loops."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.data.objectives import IGNORED
from pipeline.families import FAMILIES, ActiveLayers, Family
from pipeline.growth.initialization import initialized
from pipeline.recipe import OptimizerConfig
from tests.benchmarks.made_up import ids_and_labels, scratch
from tests.benchmarks.measuring import zero_json

VARIANTS = 64
LEARNING_RATE = 1e-4
CLIPPING = zero_json(1)["gradient_clipping"]

Step = tuple[Callable[[], None], Callable[[], None]]
"""What takes a step, and what gives its memory back."""


@dataclass(frozen=True)
class Model:
    """A model to train, and the most sequences of one step."""

    family: str
    layers: int
    hidden: int
    length: int
    sequences: int
    vocabulary: int

    @property
    def name(self) -> str:
        return f"{self.family} {{{self.layers}, {self.hidden}}}"

    @property
    def key(self) -> str:
        return f"{self.family}-{self.layers}x{self.hidden}"


@dataclass(frozen=True)
class Way:
    name: str
    zero: int | None
    """DeepSpeed's stage under our engine; None for a bare loop."""
    compiled: bool
    fair: bool = False
    """A bare loop with what ours has: `fair_step`."""

    @property
    def step(self) -> Callable[["Model", "Batch", "Way"], Step]:
        if self.zero is not None:
            return our_step
        return fair_step if self.fair else bare_step


WAYS = {
    "zero1-compiled": Way("ours, ZeRO 1, compiled", 1, True),
    "fair": Way("fair: bare PyTorch, bf16, layers and loss compiled", None, True, fair=True),
    "zero1": Way("ours, ZeRO 1", 1, False),
    "zero3-compiled": Way("ours, ZeRO 3, compiled", 3, True),
    "zero3": Way("ours, ZeRO 3", 3, False),
    "bare": Way("bare PyTorch", None, False),
    "bare-compiled": Way("bare PyTorch, compiled whole", None, True),
}


class Batch:
    """Ids and labels that say nothing, on the device; a masked model scores some of them."""

    def __init__(self, model: Model, family: Family, sequences: int, device: torch.device) -> None:
        ids, labels = ids_and_labels(family.objective, sequences, model.length, model.vocabulary)
        self.ids, self.labels = ids.to(device), labels.to(device)
        self.places = (labels.flatten() != IGNORED).nonzero().squeeze(1).to(device)
        self.scored = int((labels != IGNORED).sum())


def configuration(model: Model) -> tuple[Family, PretrainedConfig]:
    family, config = scratch(model.family, model.layers, model.hidden, model.vocabulary, model.length)
    config._attn_implementation = "sdpa"
    return family, config


def our_step(model: Model, batch: Batch, way: Way) -> Step:
    """Return what takes a step of our engine in bf16, and what gives its memory back."""
    # Here alone, so that the bare loop is measured where DeepSpeed is not installed.
    from pipeline.training.engine import build
    from pipeline.training.parameter_groups import cut
    from tests.benchmarks.training import take_step

    family, config = configuration(model)
    ds_config = zero_json(way.zero, len(batch.ids), half=True)
    optimizer, blocks = OptimizerConfig(lr=LEARNING_RATE), cut(model.layers, [])
    trained = build(family, config, initialized(family, config, 1), ds_config, optimizer, blocks, "sdpa", compile=way.compiled)
    whole = ActiveLayers.whole(model.layers)
    return lambda: take_step(trained, whole, batch.ids, batch.labels, batch.places), trained.close


def bare_step(model: Model, batch: Batch, way: Way) -> Step:
    """Return what takes a step of a plain loop, and what gives its memory back.

    fp32 weights under bf16 autocast, fused AdamW, clipping by norm. Compiled, it is traced whole, as a script that calls
    torch.compile once does it; GPT-2 then hands attention a mask, and so loses its fastest kernels.
    """
    plain, logits, labels = plain_model(model, batch)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LEARNING_RATE, fused=True)

    def mean_loss(ids: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits(ids).float(), labels)

    called = torch.compile(mean_loss) if way.compiled else mean_loss

    def step() -> None:
        with torch.autocast(batch.ids.device.type, torch.bfloat16):
            loss = called(batch.ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), CLIPPING)
        optimizer.step()
        optimizer.zero_grad()

    return step, lambda: None


def fair_step(model: Model, batch: Batch, way: Way) -> Step:
    """Return what takes a step of a bare loop that lacks nothing that ours has, and what gives its memory back.

    bf16 weights with fp32 masters, each layer compiled by itself and so with its attention's fastest kernels, the loss
    compiled, fused AdamW, clipping by norm.
    """
    plain, logits, labels = plain_model(model, batch)
    masters = [weight.detach().clone().requires_grad_() for weight in plain.parameters()]
    weights = list(plain.to(torch.bfloat16).parameters())
    # As many forms of a layer as ours may have: past the limit a layer would run uncompiled, and say so in a warning alone.
    torch._dynamo.config.recompile_limit = VARIANTS
    for layer in plain.get_submodule(FAMILIES[model.family].layers):
        layer.forward = torch.compile(layer.forward)
    mean_loss = torch.compile(lambda scores, labels: cross_entropy(scores.float(), labels))
    optimizer = torch.optim.AdamW(masters, lr=LEARNING_RATE, fused=True)
    for master in masters:
        master.grad = torch.zeros_like(master)
    gradients = [master.grad for master in masters]

    def step() -> None:
        mean_loss(logits(batch.ids), labels).backward()
        torch._foreach_copy_(gradients, [weight.grad for weight in weights])
        for weight in weights:
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(masters, CLIPPING)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)

    return step, lambda: None


def plain_model(model: Model, batch: Batch) -> tuple[PreTrainedModel, Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """Return a model in fp32, what gives the logits of what is scored, and their labels."""
    family, config = configuration(model)
    with batch.ids.device:
        plain = family.model_class(config).train()

    def logits(ids: torch.Tensor) -> torch.Tensor:
        if family.objective == "clm":
            return plain(input_ids=ids, use_cache=False).logits.flatten(0, 1)
        # The head on the scored positions alone, as ours.
        return plain.cls(plain.bert(input_ids=ids).last_hidden_state.flatten(0, 1)[batch.places])

    return plain, logits, batch.labels.flatten()[batch.places]
