"""Which sizes a model of a family may have at all, whether built from scratch or grown."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassClassValidationError

from pipeline.common.errors import UserError, one_line
from pipeline.families.base import Family, Sizes


def check_heads(family: Family, sizes: Sizes, where: str) -> None:
    """Refuse heads that the family's attention cannot have; `where` stands before the keys ("target.").

    Raises UserError naming the key.
    """
    heads, groups, head_dim = sizes.num_attention_heads, sizes.num_key_value_heads, sizes.head_dim
    if not family.own_head_dim and heads * head_dim != sizes.hidden_size:
        raise UserError(
            f"{where}num_attention_heads: {heads} heads of {head_dim} channels do not make up hidden_size "
            f"{sizes.hidden_size}, as {family.name} needs; choose sizes whose product it is"
        )
    if not family.grouped and groups != heads:
        raise UserError(
            f"{where}num_key_value_heads: {family.name} has as many as num_attention_heads, {heads}; leave the key out"
        )
    if heads % groups:
        raise UserError(
            f"{where}num_key_value_heads: {groups} does not divide num_attention_heads {heads}; choose a divisor of it"
        )
    if family.rotary and head_dim % 2:
        raise UserError(f"{where}head_dim: {head_dim} is odd, and rotary positions turn pairs of channels; choose an even one")


@contextmanager
def class_rules(family: Family, origin: str) -> Iterator[None]:
    """Turn a refusal by the Hugging Face configuration class itself into a UserError."""
    try:
        yield
    except StrictDataclassClassValidationError as error:
        reason = one_line(error.__cause__, None).rstrip(".")
        raise UserError(f"{origin}: {reason}; choose sizes that {family.config_class.__name__} takes") from None
