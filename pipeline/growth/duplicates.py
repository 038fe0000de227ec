"""Duplicated units: new channels, heads and units that training treats as it treats what they copy."""

from collections.abc import Sequence

from pipeline.families.tensors import RESIDUAL
from pipeline.growth.growth_plan import GrowthPlan
from pipeline.operators import Stream, Units

PORT_NAMES = {
    RESIDUAL: "channels",
    "heads": "heads",
    "ffn": "FFN units",
    "expert_ffn": "units of experts",
    "shared_ffn": "units of shared experts",
    "head_dim": "channels of heads",
    "q_lora_rank": "channels of the queries' latent",
    "kv_lora_rank": "channels of the keys' and values' latent",
    "experts": "experts",
}
"""What the indices of a port are called."""

_COPIES = (Stream.COPY, Stream.SQRT_COPY, Stream.MEAN_OF_COPIES)


def predict_duplicates(plan: GrowthPlan) -> list[str]:
    """Return the ports whose new indices are copies that training treats as it treats what they copy.

    What is read and written alike has the same gradient: the model goes on as one of the source's width. Dropout alone,
    which draws for each unit, would break the symmetry.
    """
    content, growth = plan.content, plan.growth
    residual = plan.maps[RESIDUAL]
    if growth.symmetry != "none" or growth.noise:
        return []
    alike = plan.copies_experts or plan.form.leaves_duplicates
    if alike and not plan.draws_experts_units:
        # The same tokens choose them, by equal gates.
        return ["experts"]
    if plan.graph.norms_all_heads and not content.fills and not residual.grows and plan.maps["heads"].grows:
        # Copies whatever the operator; in a wider stream each reads new channels in its own way.
        units = content.units is Units.COPY and not content.next_layer and plan.maps["ffn"].grows
        return ["heads", "ffn"] if units else ["heads"]
    if content.next_layer:
        return []
    # Channels at the mean are read at random, by each copy of a unit in its own way.
    whole = content.stream is not Stream.MEAN_OF_COPIES or residual.balanced
    stream = not residual.grows or (content.stream in _COPIES and whole)
    units = stream and content.units is Units.COPY and not widens_heads(plan)
    ports = ([RESIDUAL] if stream else []) + (["heads", "ffn"] if units else [])
    return [port for port in ports if plan.maps[port].grows]


def duplicates_warning(duplicates: Sequence[str]) -> list[str]:
    """Return what there is to say of a growth's duplicates, by the ports that have them."""
    if not duplicates:
        return []
    new = ", ".join(PORT_NAMES[port] for port in duplicates)
    return [
        f"Training cannot tell new {new} from those that they copy, without dropout: the model learns as a narrower one; "
        "`symmetry: paired`, or width: exact_aki, makes them unlike"
    ]


def widens_heads(plan: GrowthPlan) -> bool:
    """Whether the channels of a head's queries, keys or values grow."""
    old, new = plan.source, plan.target
    return any(getattr(old, key) != getattr(new, key) for key in ("head_dim", "qk_nope_head_dim", "v_head_dim"))
