"""Why a growth preserves the function or not."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from pipeline.families import LATENT_KEYS
from pipeline.families.graph import Attention, Model, head_norms
from pipeline.families.primitives import Norm
from pipeline.families.tensors import RESIDUAL
from pipeline.growth.departure_sentences import ON_PURPOSE, SENTENCES
from pipeline.growth.duplicates import PORT_NAMES, widens_heads
from pipeline.growth.facts import Break
from pipeline.growth.growth_plan import GrowthPlan
from pipeline.operators import Units


class Exactness(StrEnum):
    """How the grown model's function relates to the source's."""

    EXACT = "exact"
    APPROXIMATE = "approximate"
    """The operator would preserve the function, and cannot at these sizes or in this family."""
    BY_DESIGN = "inexact by design"
    """The operator or an option changes the function on purpose."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason why the grown model computes something else than its source."""

    code: str
    cause: str
    """For a reader who knows transformers."""
    meaning: str
    """For one who does not."""
    by_design: bool
    tensor: str | None = None
    """The node at which the derivation broke."""


_NORMS = {"layer": "LayerNorm", "rms": "RMSNorm"}
_SPANS = {"all": "all heads'", "head": "each head's"}
_PLURALS = {"query": "queries", "key": "keys"}

_CONSEQUENCES = {
    "mean_not_written",
    "means_enter_rms_norm",
    "noise_enters_norm",
    "statistics_scaled",
    "uneven_counts",
    "zeros_enter_layer_norm",
}
"""Breaks of the stream, after which what reads it breaks too."""


def exactness(reasons: Sequence[Reason]) -> Exactness:
    """Return what the reasons come to."""
    if not reasons:
        return Exactness.EXACT
    return Exactness.BY_DESIGN if any(reason.by_design for reason in reasons) else Exactness.APPROXIMATE


def predict(plan: GrowthPlan) -> list[Reason]:
    """Return every reason why the target computes something else than the source; none where the growth is exact.

    Logits are compared over the source's vocabulary and its positions: larger ones add entries and take nothing away.
    """
    causes = [(departure.tensor, departure.cause) for departure in plan.departures]
    stream_broke = any(cause.code in _CONSEQUENCES and cause.facts["port"] == RESIDUAL for _, cause in causes)
    noisy = {str(cause.facts["port"]) for _, cause in causes if cause.code == "noise_is_read"}
    reasons: dict[str, Reason] = {}
    for tensor, cause in causes:
        if stream_broke and cause.facts.get("port") == RESIDUAL and cause.code not in _CONSEQUENCES:
            continue
        units = {"units": _grown(plan, noisy)} if cause.code == "noise_is_read" else {}
        found = _reason(plan, tensor, Break(cause.code, cause.facts | units))
        reasons.setdefault(found.cause, found)
    return [*reasons.values(), *_options(plan)]


def _grown(plan: GrowthPlan, ports: Collection[str]) -> str:
    """What grows of these ports, in words: heads in number, or in their dimension."""
    grown = [port for port in PORT_NAMES if port != RESIDUAL and port in ports and port in plan.maps and plan.maps[port].grows]
    grown += ["head_dim"] * ("heads" in ports and widens_heads(plan))
    return " and ".join(PORT_NAMES[port] for port in grown)


def _options(plan: GrowthPlan) -> list[Reason]:
    growth, found = plan.growth, []
    widens = any(axis_map.grows for axis_map in plan.maps.values()) or widens_heads(plan)
    if plan.content.units is Units.COPY and growth.symmetry == "none" and growth.noise and widens:
        found.append(Break("noise_added", {"noise": growth.noise}))
    if any(plan.stretches(tensor) for tensor in plan.tensors.values()):
        found.append(Break("positions_stretched"))
    found += [Break("context_changed", asdict(change)) for change in plan.context]
    return [_reason(plan, None, cause) for cause in found]


def _reason(plan: GrowthPlan, tensor: str | None, cause: Break) -> Reason:
    facts = cause.facts
    source, target = plan.source_graph.sizes, plan.graph.sizes
    stream = target[RESIDUAL] / source[RESIDUAL]
    heads = target["heads"] * target["head_dim"] / (source["heads"] * source["head_dim"])
    port = str(facts.get("port"))
    of_heads, of_latent = port == "heads", port in LATENT_KEYS
    grown = f"x{heads:g} of its heads' channels" if of_heads else f"x{stream:g}"
    factor = "by NAI eq. 14's factor, which is right for scores over sqrt(D) and not over sqrt(d_k)"
    given = {
        "where": f"{plan.family.name} at {f'{port} {source[port]} -> {target[port]}' if of_latent else grown}",
        "channels": PORT_NAMES[port] if of_latent else "channels of heads" if of_heads else "channels of the residual stream",
        "held": (plan.content.units if of_heads or of_latent else plan.content.stream).value,
        "content": plan.content.units.value,
        "scaled": factor if plan.growth.paper_factor else "since nothing compensates for the larger heads",
        "tensor": tensor,
    } | facts
    norms = _norms(plan.graph)
    if tensor in norms:
        kind, place = norms[tensor]
        given |= {"kind": kind, "norm": f"{kind} {place} ({tensor})"}
    if "length" in facts:
        length = facts["length"]
        given["departs"] = (
            f"position {length} is the first that attends otherwise"
            # The types that look at a text's length turn all of a longer one otherwise.
            if plan.family.objective == "clm" and (length == 1 or not facts["positions"])
            else f"texts of more than {length} tokens are attended otherwise"
        )
    if "counts" in facts:
        given["counts"] = " and ".join(f"{count:g}" for count in facts["counts"])
    said, meaning = (sentence.format(**given) for sentence in SENTENCES[cause.code])
    return Reason(cause.code, said, meaning, cause.code in ON_PURPOSE, tensor)


def _norms(graph: Model) -> dict[str, tuple[str, str]]:
    """Return, by its gain, the kind of every norm and what it reads."""
    found: list[tuple[Norm | None, str]] = [(graph.head.norm, "before the output matrix")]
    for stack in graph.stacks:
        found += [(stack.embedding_norm, "after the embeddings"), (stack.final, "after the last layer")]
    for branch in (branch for layer in graph.layers for branch in layer.branches):
        found += [(branch.pre, "before a branch"), (branch.post, "on what a branch adds"), (branch.ends, "after a branch")]
        if isinstance(branch.body, Attention):
            found += [(norm, f"over {_SPANS[norm.span]} {_PLURALS[part]}") for norm, part, _ in head_norms(branch.body)]
            found += [(latent.norm, "over a latent") for latent in branch.body.latents]
    return {norm.gain: (_NORMS[norm.kind], place) for norm, place in found if norm is not None}
