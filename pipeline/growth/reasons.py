"""Why a growth preserves the function or not."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from pipeline.families import LATENT_KEYS
from pipeline.families.graph import Attention, Model, head_norms
from pipeline.families.primitives import Norm
from pipeline.families.tensors import RESIDUAL
from pipeline.growth.departure_sentences import SENTENCES
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
        port = cause.facts.get("port")
        if stream_broke and port == RESIDUAL and cause.code not in _CONSEQUENCES:
            continue
        facts = dict(cause.facts)
        if cause.code == "noise_is_read":
            facts["units"] = " and ".join(PORT_NAMES[grown] for grown in _grown(plan, noisy))
        found = _reason(plan, tensor, Break(cause.code, facts))
        reasons.setdefault(found.cause, found)
    return [*reasons.values(), *_options(plan)]


def _grown(plan: GrowthPlan, ports: Collection[str]) -> list[str]:
    """Which of these ports grow: heads in number, or in their dimension."""
    grown = [port for port in PORT_NAMES if port != RESIDUAL and port in ports and port in plan.maps and plan.maps[port].grows]
    return grown + ["head_dim"] * ("heads" in ports and widens_heads(plan))


def _options(plan: GrowthPlan) -> list[Reason]:
    growth, found = plan.growth, []
    widens = any(axis_map.grows for axis_map in plan.maps.values()) or widens_heads(plan)
    if plan.content.units is Units.COPY and growth.symmetry == "none" and growth.noise and widens:
        found.append(_reason(plan, None, Break("noise_added", {"noise": growth.noise})))
    if any(plan.stretches(tensor) for tensor in plan.tensors.values()):
        found.append(_reason(plan, None, Break("positions_stretched")))
    found += [_reason(plan, None, Break("context_changed", asdict(change))) for change in plan.context]
    return found


def _reason(plan: GrowthPlan, tensor: str | None, cause: Break) -> Reason:
    sentences = SENTENCES[cause.code]
    facts = dict(cause.facts)
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
    for norm, place in _norms(plan.graph):
        if norm.gain == tensor:
            given |= {"kind": _NORMS[norm.kind], "norm": f"{_NORMS[norm.kind]} {place} ({tensor})"}
            break
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
    cause_of, meaning = sentences.cause.format(**given), sentences.meaning.format(**given)
    return Reason(cause.code, cause_of, meaning, sentences.by_design, tensor)


def _norms(graph: Model) -> Iterator[tuple[Norm, str]]:
    """Every norm, and what it reads."""
    found: list[tuple[Norm | None, str]] = [(graph.head.norm, "before the output matrix")]
    for stack in graph.stacks:
        found += [(stack.embedding_norm, "after the embeddings"), (stack.final, "after the last layer")]
    for branch in (branch for layer in graph.layers for branch in layer.branches):
        found += [(branch.pre, "before a branch"), (branch.post, "on what a branch adds"), (branch.ends, "after a branch")]
        if isinstance(branch.body, Attention):
            found += [(norm, f"over {_SPANS[norm.span]} {_PLURALS[part]}") for norm, part, _ in head_norms(branch.body)]
            found += [(latent.norm, "over a latent") for latent in branch.body.latents]
    yield from ((norm, place) for norm, place in found if norm is not None)


_SPANS = {"all": "all heads'", "head": "each head's"}
_PLURALS = {"query": "queries", "key": "keys"}
