"""Hold a family's graph against its Hugging Face class: `python -m tests.pipeline.growth.check NAME`.

For whoever adds a family: every parameter's shape at two sizes, and growths of random models, in float64, against the class's
own logits. What is called exact is to be exact, and what is not is to differ.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.common.errors import UserError
from pipeline.families import (
    EXPERT_KEYS,
    FAMILIES,
    GROUP_KEYS,
    LATENT_KEYS,
    Family,
    check_parameters,
    config_key,
    has_key,
    held_by,
    target_config,
)
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.fused_parameters import parameters_of, stored_of
from pipeline.growth.growth_plan import GrowthPlan
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.plan import plan_growth
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.recipe import GrowthConfig, TargetConfig

EXACT = 1e-11
"""Logits of order 10 in float64 after some hundred products."""

IDS = torch.randint(4, 61, (2, 24), generator=torch.Generator().manual_seed(2))
"""Tokens that models are compared on."""

_SMALL: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_decoder_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 100,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "n_shared_experts": 2,
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 20,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "v_head_dim": 10,
    "vocab_size": 61,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}

GROWTHS: Mapping[str, Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]] = {
    "hidden_size": {
        "identity": ({}, {}),
        "width x2": ({"hidden_size": 128}, {}),
        "width x1.5": ({"hidden_size": 96}, {}),
        "copies x2": ({"hidden_size": 128}, {"width": "fpi"}),
        "copies x1.5": ({"hidden_size": 96}, {"width": "fpi"}),
        "heads": ({"num_attention_heads": 8}, {}),
        "head dimension": ({"head_dim": 32}, {}),
        "FFN": ({"intermediate_size": 130}, {}),
        "depth": ({"num_hidden_layers": 5}, {"depth": "interleave"}),
        "depth on top": ({"num_hidden_layers": 5}, {"depth": "last_layer"}),
        "width and depth": ({"hidden_size": 128, "num_hidden_layers": 4}, {}),
        "untied": ({"tie_word_embeddings": False}, {}),
        "untied, width": ({"hidden_size": 128, "tie_word_embeddings": False}, {}),
    },
    "num_decoder_layers": {"decoder's depth": ({"num_decoder_layers": 5}, {})},
    "num_experts": {
        "experts x2": ({"num_experts": 8}, {}),
        "experts x3, x2": ({"num_experts": 12, "hidden_size": 128}, {}),
        "experts' units": ({"num_experts": 8, "hidden_size": 128, "intermediate_size": 260}, {}),
        "experts, same k": ({"num_experts": 8, "num_experts_per_tok": 2}, {}),
    },
    "n_group": {
        "experts, same groups": ({"num_experts": 8, "n_group": 2, "topk_group": 1}, {}),
        "shared experts": ({"n_shared_experts": 3, "moe_intermediate_size": 30}, {}),
    },
    "kv_lora_rank": {
        "latents": ({"kv_lora_rank": 20, "q_lora_rank": 33}, {}),
        "latents, copies": ({"kv_lora_rank": 20, "hidden_size": 128}, {"width": "fpi"}),
        "latents, heads": ({"kv_lora_rank": 24, "qk_nope_head_dim": 14, "v_head_dim": 15, "num_attention_heads": 6}, {}),
        "keys' channels": ({"qk_nope_head_dim": 11, "head_dim": 32}, {}),
        "values' channels": ({"v_head_dim": 17}, {}),
    },
}
"""By a size that a configuration has: name -> the target's sizes and the growth's options."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a growth of a random model came to."""

    growth: str
    exactness: Exactness
    moved: float
    """The most that a logit moved."""
    largest: float
    """The largest logit."""

    @property
    def holds(self) -> bool:
        """Whether what was called exact is, and what was not is not."""
        return (self.moved <= EXACT * max(1.0, self.largest)) is (self.exactness is Exactness.EXACT)


def small_config(family: Family, **changed: Any) -> PretrainedConfig:
    """Return a configuration of a small model of a family."""
    optional = ("head_dim", "num_decoder_layers", *EXPERT_KEYS, *GROUP_KEYS, *LATENT_KEYS)
    known_class = family.config_class
    known = {
        config_key(known_class, key): value for key, value in _SMALL.items() if key not in optional or has_key(known_class, key)
    }
    if has_key(known_class, "kv_lora_rank"):
        known["head_dim"] = _SMALL["head_dim"]
        changed["num_key_value_heads"] = None
    if has_key(known_class, "first_k_dense_replace"):
        known["first_k_dense_replace"] = min(1, changed.get("num_hidden_layers", _SMALL["num_hidden_layers"]) - 1)
    changed = {config_key(known_class, key): value for key, value in changed.items()}
    return family.configuration(**known | {family.intermediate_key: _SMALL["intermediate_size"]} | changed)


def random_model(family: Family, config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """Return a model in float64 whose gains are in [0.6, 1.4] and whose biases are no zeros."""
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = family.model(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in held_by(model).items():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim > 1:
            values *= 0.3
        elif name.endswith("bias"):
            values *= 0.2
        else:
            offset = 0.0 if bool((parameter == 1).all()) else 1.0
            values = 0.6 + 0.8 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - offset
        parameter.data = values
    return model


def grown_model(plan: GrowthPlan, model: PreTrainedModel) -> PreTrainedModel:
    """Return the target's model, in float64, holding what the plan makes of a source's."""
    held = {name: MappedTensor(tensor.data) for name, tensor in held_by(model).items()}
    state = parameters_of(plan.graph, plan.grow(stored_of(plan.stored_graph, held), torch.float64))
    plan.config._attn_implementation = "eager"
    plan.config._experts_implementation = "eager"
    grown = plan.family.model(plan.config).double().eval()
    parameters = held_by(grown)
    with torch.no_grad():
        for name, tensor in state.items():
            parameters[name].copy_(tensor.rows(0, tensor.shape[0]))
    return grown


@torch.no_grad()
def logits(family: Family, model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Return a model's logits, computed in float64 throughout."""
    with Float64Casts():
        return model(**family.inputs(input_ids))[family.logits]


def plan_of(config: PretrainedConfig, sizes: Mapping[str, Any], growth: Mapping[str, Any] | None = None) -> GrowthPlan:
    """Return the plan of a growth whose files hold stock models."""
    options = GrowthConfig(**growth or {})
    return plan_growth(config, target_config(config, TargetConfig(**sizes), growth=options), options, 1, stock=True)


def planned(
    name: str, sizes: Mapping[str, Any], growth: Mapping[str, Any] | None = None, **options: Any
) -> tuple[GrowthPlan, PreTrainedModel]:
    """Return a plan, and the source's model: a random one of a family whose configuration has these options."""
    config = small_config(FAMILIES[name], **options)
    return plan_of(config, sizes, growth), random_model(FAMILIES[name], config, 1)


def moved(plan: GrowthPlan, model: PreTrainedModel) -> tuple[float, PreTrainedModel]:
    """Return the most that a logit of the source's tokens moves, and the grown model."""
    grown = grown_model(plan, model)
    before = logits(FAMILIES[model.config.model_type], model, IDS)
    return (logits(plan.family, grown, IDS)[..., : before.shape[-1]] - before).abs().max().item(), grown


def outcomes(family: Family, **changed: Any) -> Iterator[Outcome]:
    """Yield what each of GROWTHS comes to, of a small model whose configuration is `changed`; refusals are left out."""
    config = small_config(family, **changed)
    model = random_model(family, config, 1)
    largest = logits(family, model, IDS).abs().max().item()
    growths: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for key, of_key in GROWTHS.items():
        growths |= of_key if has_key(family.config_class, key) else {}
    for name, (sizes, options) in growths.items():
        try:
            plan = plan_of(config, sizes, options)
        except UserError as error:
            print(f"{family.name:12} {'':7} {name:16} not possible, and not counted: {error}")
            continue
        yield Outcome(name, exactness(predict(plan)), moved(plan, model)[0], largest)


def main() -> int:
    """Check the families that are named; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="NAME", help="a model_type (default: all)")
    names = parser.parse_args().families
    for name in names:
        if name not in FAMILIES:
            parser.error(f"no family {name!r}; registry.py names {', '.join(FAMILIES)}")
    failed = 0
    for name in names or FAMILIES:
        family = FAMILIES[name]
        for tied in (True, False):
            for changed in ({}, {"hidden_size": 96}):
                try:
                    check_parameters(family, small_config(family, tie_word_embeddings=tied, **changed))
                except RuntimeError as error:
                    print(error)
                    return 1
            for outcome in outcomes(family, tie_word_embeddings=tied):
                failed += not outcome.holds
                print(
                    f"{name:12} {'tied' if tied else 'untied':7} {outcome.growth:16} {outcome.exactness:18} a logit moves by "
                    f"{outcome.moved:.2g} of {outcome.largest:.3g}{'' if outcome.holds else '  WRONG'}"
                )
    print(f"{failed} growths are not what they are called" if failed else "every growth is what it is called: exact, or not")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
