"""Bytes that autograd keeps of a step against their formula: `python -m tests.benchmarks.activations`.

Prints, by family, attention, precision and what learns, the bytes of all tensors saved for the backward pass (each storage
once, weights left out), and the formula's.
"""

import itertools
import logging
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from pipeline.data.objectives import IGNORED
from pipeline.families import FAMILIES, ActiveLayers, Family
from pipeline.families.active_layers import Mixtures
from pipeline.families.base import has_key
from pipeline.flops.activations import activation_bytes
from pipeline.training.layers import prepare_model
from pipeline.training.loop.running import running, scoring
from pipeline.training.losses import logits_of, summed_losses
from tests.benchmarks.made_up import scratch
from tests.benchmarks.measuring import MIB, table
from tests.families import let_learn
from tests.pipeline.growth import check
from tests.saved import saved_bytes

UNITS = ("moe_intermediate_size", "shared_expert_intermediate_size")


@dataclass(frozen=True)
class Shape:
    layers: int = 6
    hidden: int = 256
    heads: int = 4
    length: int = 256
    sequences: int = 4
    vocabulary: int = 8000


def sections(layers: int) -> dict[str, ActiveLayers]:
    """Return what may learn of a model."""
    return {
        "whole": ActiveLayers.whole(layers),
        "top 2": ActiveLayers.top(layers, 2),
        "top 2 of a sub-model": ActiveLayers.top(layers - 1, 2),
        "layers 1, 3": ActiveLayers(layers, frozenset({1, 3}), embeddings=False, head=False),
        "head": ActiveLayers(layers, frozenset(), embeddings=False, head=True),
        "rows of new tokens": ActiveLayers(layers, frozenset(), embeddings=False, head=False, new_tokens=True),
    }


def parts_of_mixtures(layers: int, mixtures: Mixtures) -> dict[str, ActiveLayers]:
    """Return what may learn of a model's mixtures alone."""
    parts = {
        "routers": {"routers": True},
        "an expert": {"experts": frozenset({1})},
        "a layer above": {"layers": frozenset({2})},
    }
    parts["a layer above"] |= {"routers": True, "experts": frozenset({0})}
    if mixtures.shared:
        parts["shared experts"] = {"shared_experts": True}
    still = {"layers": frozenset(), "embeddings": False, "head": False, "mixtures": mixtures.layers}
    return {name: ActiveLayers(layers, **still | learns) for name, learns in parts.items()}


def small(family: Family, shape: Shape) -> PretrainedConfig:
    """Return the configuration of a model of these sizes, the family's own options in all else."""
    if has_key(family.config_class, "num_experts"):
        # Fused kernels for a CPU ask for values as wide as keys.
        latents = {"qk_nope_head_dim": 16, "v_head_dim": 16 + shape.hidden // shape.heads, "n_group": 1}
        return check.small_config(
            family,
            **{key: size for key, size in latents.items() if has_key(family.config_class, key)},
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=1,
            head_dim=shape.hidden // shape.heads,
            max_position_embeddings=shape.length,
            vocab_size=shape.vocabulary,
            num_experts_per_tok=3,
            intermediate_size=4 * shape.hidden,
            **{key: 2 * shape.hidden for key in UNITS if has_key(family.config_class, key)},
        )
    groups = 1 if family.grouped else None
    sizes = shape.layers, shape.hidden, shape.vocabulary, shape.length
    return scratch(family.name, *sizes, heads=shape.heads, num_key_value_heads=groups)[1]


def measured(
    family_name: str,
    attention: str,
    dtype: torch.dtype,
    shape: Shape,
    *,
    with_loss: bool = False,
    vocab_divisible_by: int = 1,
    window: int | None = None,
    experts: str = "grouped_mm",
) -> list[tuple[str, int, int]]:
    """Return (what learns, bytes kept, bytes by the formula); in a `window` all layers but the first attend."""
    family = FAMILIES[family_name]
    config = small(family, shape)
    config._attn_implementation = attention
    if has_key(family.config_class, "num_experts"):
        config._experts_implementation = experts
    if window is not None:
        config.sliding_window = window
        if hasattr(config, "layer_types"):
            config.layer_types = ["full_attention"] + ["sliding_attention"] * (shape.layers - 1)
    model = family.model_class(config).to(dtype)
    prepare_model(model, family, fused_linear_cross_entropy=with_loss, make_vocab_size_divisible_by=vocab_divisible_by)
    mixtures = family.graph(config).mixtures
    generator = torch.Generator().manual_seed(1)
    ids, labels = torch.randint(5, shape.vocabulary, (2, shape.sequences, shape.length), generator=generator)
    if family.objective == "mlm":
        labels[torch.rand(labels.shape, generator=generator) > 0.15] = IGNORED
    scored = int((labels != IGNORED).sum())
    extra = {"use_cache": False} if family.objective == "clm" else {}
    rows = []
    ways = sections(shape.layers) | (parts_of_mixtures(shape.layers, mixtures) if mixtures.layers else {})
    for name, active in ways.items():
        let_learn(model, family, active)
        with running(model, family, active), scoring(model, family, labels) as targets:
            kept = saved_bytes(
                model,
                lambda targets=targets: summed_losses(logits_of(family, model(input_ids=ids, **extra)), targets, None).tokens,
            )
        how = {"dtype": dtype, "with_loss": with_loss, "vocab_divisible_by": vocab_divisible_by}
        formula = activation_bytes(family, config, shape.length, ids.numel(), scored=scored, active=active, **how)
        rows.append((name, kept, formula))
    return rows


def main() -> None:
    logging.disable(logging.WARNING)
    ways = itertools.product(("gpt2", "bert", "roberta", "llama", "qwen3"), ("sdpa", "eager"), (torch.float32, torch.bfloat16))
    rows = [
        [family, attention, str(dtype).removeprefix("torch."), name, kept / MIB, formula / MIB, formula / kept]
        for family, attention, dtype in ways
        for name, kept, formula in measured(family, attention, dtype, Shape())
    ]
    print(table(["family", "attention", "precision", "learns", "kept MiB", "formula MiB", "formula / kept"], rows))


if __name__ == "__main__":
    main()
