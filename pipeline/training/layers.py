"""How a model's layers run, settled before its engine is built: activations, activation checkpointing, torch.compile."""

from typing import TypedDict, Unpack

import torch
from transformers import PreTrainedModel
from transformers.activations import GELUTanh, NewGELUActivation

from pipeline.families import Family, learn_every_row
from pipeline.families.routing import route_in_float32
from pipeline.training.head import prepare_head

_VARIANTS = 64
"""Forms that a function of a layer may be compiled to: with and without gradients, of weights that learn or not, by shapes."""


class LayerSettings(TypedDict, total=False):
    """Keys of a recipe by which a model's layers run; none of those that are left out is on."""

    activation_checkpointing: bool
    compile: bool
    fused_linear_cross_entropy: bool
    make_vocab_size_divisible_by: int


def prepare_model(model: PreTrainedModel, family: Family, **settings: Unpack[LayerSettings]) -> None:
    """Have the layers of a model run as a recipe says; to be called before the engine is built.

    `gelu_new`, GPT-2's activation, runs as torch's one kernel of the same function; the configuration keeps its name. Every row
    of an embedding learns, that of `pad_token_id` too: windows hold no padding. Routers compute in float32.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, NewGELUActivation):
            # Written out in Python it is eight passes over an FFN's units, and keeps four of them for the backward pass.
            model.set_submodule(name, GELUTanh())
    learn_every_row(model)
    graph = family.graph(model.config)
    route_in_float32(model, graph)
    divisor, with_loss = settings.get("make_vocab_size_divisible_by", 1), settings.get("fused_linear_cross_entropy", False)
    if with_loss or divisor > 1:
        prepare_head(model, graph.head, divisor, with_loss=with_loss)
    if settings.get("activation_checkpointing"):
        # Named so as of transformers 5.23; the name before goes with its release 6.
        name = "activation_checkpointing_enable"
        enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
        enable({"use_reentrant": False})
        # It has the embeddings' output ask for a gradient, which would run through frozen layers down to there.
        model.disable_input_require_grads()
    if not settings.get("compile"):
        return
    torch._dynamo.config.recompile_limit = _VARIANTS
    for layer in model.get_submodule(family.layers).children():
        # Not the layer itself: hooks around it stay outside of what is compiled.
        layer.forward = torch.compile(layer.forward)
