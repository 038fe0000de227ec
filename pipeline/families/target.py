"""Which models a model can grow into, and the sizes that a target leaves unsaid."""

import copy
from dataclasses import fields, replace
from typing import Any

from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families.base import EXPERT_KEYS, GROUP_KEYS, LATENT_KEYS, Family, Sizes, config_keys, has_key, sizes_of
from pipeline.families.consistency import check_values
from pipeline.families.context import check_rotary, context_keys, set_context
from pipeline.families.layer_lists import LAYER_LISTS, SPARSE_KEYS, carry_layer_lists
from pipeline.families.registry import family_of
from pipeline.families.rope import ROPE_OF_PAIRS, rope_sets
from pipeline.families.shape import check_heads, class_rules
from pipeline.families.upcycling import MIXTURE_FORMS, MIXTURES, read_as
from pipeline.recipe import GrowthConfig, TargetConfig

FFN_KEYS = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
"""The widths of feed-forward networks: of plain ones, of experts where those have their own, and of a shared expert."""

_SIZES = [field.name for field in fields(Sizes) if field.name not in ("segments", "tied")]
"""What growth makes larger, or leaves."""

_FFN_MULTIPLES = [256, 128, 64, 32, 16, 8]
"""An FFN's width is rounded up to a multiple of one; published gated FFNs are multiples of 128 or 256 (11008, 14336, 29568)."""

_MOST_ROUNDED = 8
"""Rounding adds at most one part in so many of the source's width: a small model's FFN must not become half as wide again."""


def target_config(
    source: PretrainedConfig, target: TargetConfig, where: str = "target.", growth: GrowthConfig | None = None
) -> PretrainedConfig:
    """Return the source's configuration at the target's sizes.

    Sizes that the recipe leaves out follow the source: heads keep their dimension, query heads their
    ratio to key-value heads, and the FFN its ratio to the hidden size, rounded up as `_ffn` says; `derived_sizes`
    tells of them. A dense source may become a mixture, as `read_as` says, by the options of a growth. Raises UserError where a
    size is smaller or cannot be reached; `where` stands before its key.
    """
    source = read_as(source, target, growth, where)
    family = family_of(source)
    for key in MIXTURE_FORMS:
        named, said = getattr(target, key), getattr(source, key, None)
        if named not in (None, said):
            raise UserError(
                f"{where}{key}: {named!r} is not the source's {said!r}, which growth keeps; a dense model that is made into a "
                "mixture may have its own"
            )
    sizes = _target_sizes(family, sizes_of(source), target, where)
    check_heads(family, sizes, where)
    config = copy.deepcopy(source)
    for key, value in config_keys(family, sizes, config).items():
        setattr(config, key, value)
    config.tie_word_embeddings = sizes.tied
    # As many entries as layers, which the class asks for; what they say is settled with the growth.
    carry_layer_lists(source, config, [min(layer, source.num_hidden_layers - 1) for layer in range(config.num_hidden_layers)])
    if set(getattr(config, "layer_types", None) or ()) == {"full_attention"} and hasattr(config, "max_window_layers"):
        # The layers from here on would slide, for who derives the types from it.
        config.max_window_layers = max(config.max_window_layers, config.num_hidden_layers)
    set_context(family, source, config, target, where)
    if target.dropout is not None:
        family.set_dropout(config, target.dropout)
    check_growth(source, config, where, growth, new_tokenizer=target.tokenizer is not None)
    return config


def derived_sizes(
    source: PretrainedConfig, target: PretrainedConfig, named: TargetConfig, growth: GrowthConfig | None = None
) -> list[str]:
    """Return, of each size of `target_config`'s that changes and was not named, what it came to and why."""
    source = read_as(source, target, growth, "")
    family, old, new = family_of(source), sizes_of(source), sizes_of(target)
    reasons = {
        "num_attention_heads": "in proportion to hidden_size" if family.own_head_dim else "to hidden_size / head_dim",
        "head_dim": "to hidden_size / num_attention_heads",
        **{
            key: f"in proportion to hidden_size{_rounded(key, old, new, named)}"
            for key in FFN_KEYS
            if getattr(old, key) is not None
        },
        "num_experts_per_tok": "in proportion to num_experts",
        "n_group": "in proportion to num_experts",
        "topk_group": "in proportion to num_experts",
    }
    if family.grouped:
        reasons["num_key_value_heads"] = "in proportion to num_attention_heads"
    if named.tokenizer is not None:
        reasons["vocab_size"] = "to that of the target's tokenizer"
    return [
        f"{key}: {getattr(old, key)} -> {getattr(new, key)}; the target does not name it, so it is set {reason}"
        for key, reason in reasons.items()
        if getattr(named, key) is None and getattr(new, key) != getattr(old, key)
    ]


def check_growth(
    source: PretrainedConfig,
    target: PretrainedConfig,
    where: str,
    growth: GrowthConfig | None = None,
    *,
    new_tokenizer: bool = False,
) -> None:
    """Refuse a target configuration that the source cannot grow into; `where` stands before the keys.

    With a new tokenizer the vocabulary may be smaller. Both are of families that `family_of` lets pass. Raises UserError
    naming the key. The rules are those of `target_config`, which changes nothing but sizes and dropout.
    """
    source = read_as(source, target, growth, where)
    family = family_of(source)
    # In a deeper model each layer has the kind of the one that it is made of, which the growth settles.
    lists = (*LAYER_LISTS, *SPARSE_KEYS) if target.num_hidden_layers == source.num_hidden_layers else ()
    # Those that give a model other tensors.
    options = sorted({key for variant in family.variants for key in variant} - {*family.kept, *SPARSE_KEYS, *_SIZES})
    for key in ("model_type", *(key for key in family.kept if key not in context_keys(source)), *options, *lists):
        old, new = getattr(source, key, None), getattr(target, key, None)
        if old != new:
            raise UserError(f"{where}{key}: {new!r} is not the source's {old!r}, which growth keeps")
    if family_of(target, where.rstrip(": .")) is not family:
        raise UserError(
            f"{where}architectures: {target.architectures} is not the source's {family.model_class.__name__}, and growth "
            "neither adds a head on sentence pairs nor drops one; put the source's there"
        )
    old, new = sizes_of(source), sizes_of(target)
    if new.tied and not old.tied:
        raise UserError(
            f"{where}tie_word_embeddings: the source's output matrix is not its embedding, and one matrix cannot be both; put "
            "false"
        )
    for key in _SIZES:
        least, size = getattr(old, key), getattr(new, key)
        if (least is None) is not (size is None):
            raise UserError(
                f"{where}{key}: {size!r} is not the source's {least!r}; growth neither adds such a part nor drops it"
            )
        if least is not None and size < least and not (new_tokenizer and key == "vocab_size"):
            raise UserError(f"{where}{key}: {size} is smaller than the source's {least}; growth only adds")
    check_heads(family, new, where)
    old_group, group = (sizes.num_attention_heads // sizes.num_key_value_heads for sizes in (old, new))
    # Query heads that read one key-value head must find copies of it, or of what they read.
    if group < old_group and old_group % group:
        raise UserError(
            f"{where}num_key_value_heads: groups of {group} query heads cannot take up the source's groups of {old_group}; "
            f"choose groups of at least {old_group}, or of a divisor of it"
        )
    check_rotary(family, source, target, where)
    if family.rotary:
        _check_rotary(source, target, old, new, where)
    check_values(family, target, where.rstrip(": ."), "put others there")
    with class_rules(family, f"{where}num_attention_heads"):
        target.validate()


def _target_sizes(family: Family, old: Sizes, target: TargetConfig, where: str) -> Sizes:
    for key in ("max_position_embeddings", "num_decoder_layers", *EXPERT_KEYS, *GROUP_KEYS, *LATENT_KEYS):
        if getattr(old, key) is None and getattr(target, key) is not None:
            whose = "the source" if has_key(family.config_class, key) else family.name
            made = MIXTURES.get(family.name, ()) if key in EXPERT_KEYS else ()
            become = f"name {where}model_type: {' or '.join(made)}, which it can become, or " if made else ""
            raise UserError(f"{where}{key}: {whose} has no such size; {become}leave the key out")
    hidden = target.hidden_size or old.hidden_size
    heads, head_dim = _heads(family, old, target, hidden, where)
    as_they_were = ("num_hidden_layers", "num_decoder_layers", "vocab_size", "max_position_embeddings")
    sizes: dict[str, Any] = {
        **{key: getattr(old, key) for key in (*as_they_were, "num_experts", "n_shared_experts", *LATENT_KEYS)},
        **{key: _ffn(key, old, hidden, target.ffn_multiple_of) for key in FFN_KEYS},
        **{key: _groups(key, old, target.num_experts) for key in ("n_group", "topk_group")},
    }
    return replace(
        old,
        hidden_size=hidden,
        num_attention_heads=heads,
        num_key_value_heads=target.num_key_value_heads or _key_value_heads(old, heads, where),
        head_dim=head_dim,
        tied=old.tied if target.tie_word_embeddings is None else target.tie_word_embeddings,
        num_experts_per_tok=target.num_experts_per_tok or _experts_per_token(old, target.num_experts, where),
        **{key: getattr(target, key) or size for key, size in sizes.items()},
    )


def _experts_per_token(old: Sizes, experts: int | None, where: str) -> int | None:
    """Return how many of so many experts a token goes through, in the source's ratio."""
    if experts is None or old.num_experts is None or old.num_experts_per_tok is None:
        return old.num_experts_per_tok
    if experts < old.num_experts:
        raise UserError(f"{where}num_experts: {experts} is smaller than the source's {old.num_experts}; growth only adds")
    chosen, rest = divmod(old.num_experts_per_tok * experts, old.num_experts)
    if rest:
        raise UserError(
            f"{where}num_experts_per_tok: the source's {old.num_experts_per_tok} of {old.num_experts} experts do not scale to "
            f"{experts} experts by a whole number; name one"
        )
    return chosen


def _groups(key: str, old: Sizes, experts: int | None) -> int | None:
    """Return how many groups there are, or of how many a token's experts are, in the source's ratio to experts.

    Where experts are of any group, or their number grows by no whole number, it is the source's.
    """
    size = getattr(old, key)
    if experts is None or old.num_experts is None or experts % old.num_experts or old.topk_group == old.n_group:
        return size
    return size * (experts // old.num_experts)


def _ffn(key: str, old: Sizes, hidden: int, multiple_of: int | None) -> int | None:
    """Return the width of FFNs at a hidden size, in the source's ratio; None where the source has none of that kind.

    A width that is a whole multiple of the hidden size (GPT-2's and BERT's four times) stays that multiple. Any other is
    rounded up, as Llama's are, to a multiple of what `_multiple_of` says. `multiple_of` rounds in either case.
    """
    width = getattr(old, key)
    if width is None:
        return None
    scaled = width * hidden
    if multiple_of is None and (hidden == old.hidden_size or width % old.hidden_size == 0):
        return scaled // old.hidden_size
    multiple = multiple_of or _multiple_of(width)
    return -(-scaled // (old.hidden_size * multiple)) * multiple


def _multiple_of(width: int) -> int:
    """The largest of _FFN_MULTIPLES that divides the source's width and rounds it by no more than _MOST_ROUNDED allows."""
    fitting = (m for m in _FFN_MULTIPLES if width % m == 0 and m * _MOST_ROUNDED <= width)
    return next(fitting, _FFN_MULTIPLES[-1])


def _rounded(key: str, old: Sizes, new: Sizes, named: TargetConfig) -> str:
    """In words, what rounding did to the width of FFNs."""
    before, after = getattr(old, key), getattr(new, key)
    if before * new.hidden_size == after * old.hidden_size:
        return ""
    exact = before * new.hidden_size / old.hidden_size
    return f" ({exact:.6g}), rounded up to a multiple of {named.ffn_multiple_of or _multiple_of(before)}"


def _heads(family: Family, old: Sizes, target: TargetConfig, hidden: int, where: str) -> tuple[int, int]:
    """Return the number of query heads and their dimension."""
    head_dim = target.head_dim or old.head_dim
    if family.own_head_dim:
        heads, rest = divmod(old.num_attention_heads * hidden, old.hidden_size)
        if rest and target.num_attention_heads is None:
            raise UserError(
                f"{where}num_attention_heads: the source's {old.num_attention_heads} heads do not scale by hidden_size "
                f"{old.hidden_size} -> {hidden} to a whole number; name one"
            )
        return target.num_attention_heads or heads, head_dim
    if target.num_attention_heads is not None:
        return target.num_attention_heads, target.head_dim or hidden // target.num_attention_heads
    if hidden % head_dim:
        kept = "head_dim" if target.head_dim else "the source's head dimension"
        raise UserError(
            f"{where}num_attention_heads: heads over hidden_size {hidden} do not keep {kept} {head_dim}; name "
            "num_attention_heads, or a hidden_size that is a multiple of it"
        )
    return hidden // head_dim, head_dim


def _key_value_heads(old: Sizes, heads: int, where: str) -> int:
    group = old.num_attention_heads // old.num_key_value_heads
    if heads % group == 0:
        return heads // group
    if heads % old.num_key_value_heads == 0:
        return old.num_key_value_heads
    raise UserError(
        f"{where}num_key_value_heads: {heads} query heads divide neither into the source's groups of {group} nor among its "
        f"{old.num_key_value_heads} key-value heads; name a divisor of {heads}"
    )


def _check_rotary(source: PretrainedConfig, target: PretrainedConfig, old: Sizes, new: Sizes, where: str) -> None:
    if new.head_dim % old.head_dim:
        raise UserError(
            f"{where}head_dim: {new.head_dim} is no multiple of the source's {old.head_dim}, so that rotary pairs would lose "
            "their frequencies; choose a multiple"
        )
    ropes = [*rope_sets(source).values(), *rope_sets(target).values()]
    share, *others = {rope.get("partial_rotary_factor") or 1.0 for rope in ropes}
    if others:
        raise UserError(f"{where}rope_parameters.partial_rotary_factor: growth keeps the source's; leave it out")
    for rope in ropes:
        if int(share * new.head_dim) * old.head_dim != int(share * old.head_dim) * new.head_dim:
            raise UserError(
                f"{where}head_dim: of {new.head_dim} channels {share:g} are not the source's turned ones as often as the head "
                f"grows; keep the source's {old.head_dim}"
            )
        kind = rope.get("rope_type")
        if new.head_dim > old.head_dim and kind not in ROPE_OF_PAIRS:
            raise UserError(
                f"{where}head_dim: rotary positions of type {kind!r} change with it; keep the source's {old.head_dim} (it may "
                f"grow with {', '.join(ROPE_OF_PAIRS)})"
            )
