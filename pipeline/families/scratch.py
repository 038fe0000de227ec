"""The configuration of a model to train from scratch."""

from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families.base import EXPERT_KEYS, Sizes, config_keys, has_key, initializer_range
from pipeline.families.registry import FAMILIES, PAIR_FAMILIES, check_trained
from pipeline.families.shape import check_heads, class_rules
from pipeline.recipe import ModelConfig

_EXPERTS, _CHOSEN = 8, 2
_OF_MIXTURES = ("norm_topk_prob", "mlp_only_layers")


def scratch_config(
    model: ModelConfig, vocab_size: int, eos_id: int, sequence_length: int, *, pairs: bool = False
) -> PretrainedConfig:
    """Return the Hugging Face configuration of a model to train from scratch; `pairs` gives it a head on sentence pairs.

    Windows are packed full, so there is no padding token, whose embedding would stay untrained, but
    where the family counts positions from it. Raises UserError where the heads do not fit, and where the family
    is not known, is not trained here or has no head on pairs.
    """
    families = PAIR_FAMILIES if pairs else FAMILIES
    if model.family not in FAMILIES:
        raise UserError(f"source.model.family: {model.family!r} is not known; known are {', '.join(FAMILIES)}")
    if model.family not in families:
        raise UserError(f"data.pairs: {model.family} has no head on sentence pairs; use {', '.join(families)}")
    family = families[model.family]
    check_trained(family, "source.model.family")
    known = family.config_class
    if has_key(known, "kv_lora_rank"):
        raise UserError(
            f"source.model.family: {family.name} has sizes of latents, which this section does not; name as source.path a "
            "directory with a model of it, as save_pretrained writes it"
        )
    for key in (*EXPERT_KEYS, *_OF_MIXTURES):
        if getattr(model, key) is not None and not has_key(known, key):
            raise UserError(f"source.model.{key}: {family.name} has no such key; leave it out")
    heads, units = model.num_attention_heads, model.intermediate_size or 4 * model.hidden_size
    default = {"num_experts": _EXPERTS, "num_experts_per_tok": _CHOSEN}
    of_experts = {key: getattr(model, key) or default.get(key, units) for key in EXPERT_KEYS if has_key(known, key)}
    sizes = Sizes(
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=model.num_key_value_heads or heads,
        head_dim=model.head_dim or model.hidden_size // heads,
        intermediate_size=units,
        vocab_size=model.vocab_size or vocab_size,
        max_position_embeddings=model.max_position_embeddings or sequence_length + family.position_offset,
        segments=0,
        tied=model.tie_word_embeddings,
        **of_experts,
    )
    chosen, experts = (of_experts.get(key, 0) for key in ("num_experts_per_tok", "num_experts"))
    if chosen > experts:
        raise UserError(f"source.model.num_experts_per_tok: {chosen} of {experts} experts; name at most as many")
    if (last := max(model.mlp_only_layers or [0])) >= sizes.num_hidden_layers:
        raise UserError(
            f"source.model.mlp_only_layers: {last} where the model has layers 0 to {sizes.num_hidden_layers - 1}; name some "
            "of those"
        )
    check_heads(family, sizes, "source.model.")
    settings = {
        "tie_word_embeddings": sizes.tied,
        "initializer_range": initializer_range(model.initializer_range, sizes.hidden_size),
        "pad_token_id": None,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        **{key: getattr(model, key) for key in _OF_MIXTURES if getattr(model, key) is not None},
        **family.scratch,
    }
    with class_rules(family, "source.model"):
        config = family.configuration(**config_keys(family, sizes, family.config_class), **settings)
    config.architectures = [family.model_class.__name__]
    family.set_dropout(config, model.dropout)
    return config
