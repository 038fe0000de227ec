"""Why a growth preserves the function or not: the sentence of each code, and what all of them come to."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import torch

from pipeline.families import LATENT_KEYS
from pipeline.families.graph import Attention, Model, Norm, head_norms
from pipeline.families.tensors import RESIDUAL, Tensor, numel
from pipeline.growth.facts import Break
from pipeline.growth.index_map import INIT, AxisIndexMap
from pipeline.growth.moments import muon_scale, steps_as_matrix
from pipeline.growth.plan import GrowthPlan
from pipeline.growth.token_rows import few_tokens_warning, over_both, tokens_counted
from pipeline.operators import Stream, Units


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


@dataclass(frozen=True, slots=True)
class _Words:
    """How a code is told."""

    cause: str
    """For a reader who knows transformers."""
    meaning: str
    """For one who does not."""
    by_design: bool = False


_STREAM = (
    "{where}: {held} in new {channels} shift the statistics of the {norm}",
    "What new channels hold is not what {kind} ignores, so that it finds other statistics than in the source.",
)
_WORDS: Mapping[str, _Words] = {
    "noise_enters_norm": _Words(
        "{where}: new {channels} hold {held}, which enter the statistics of the {norm}",
        "New channels carry values of their own, and {kind} counts them in, which shifts everything that follows.",
        by_design=True,
    ),
    "uneven_counts": _Words(
        "{where}: counts {counts} under one {norm}",
        (
            "Some channels were copied more often than others, and {kind} takes its statistics over all copies alike, "
            "so that it no longer finds the source's. A hidden size that is a whole multiple of the source's, or "
            "width: auto, avoids this."
        ),
    ),
    "zeros_enter_layer_norm": _Words(*_STREAM),
    "means_enter_rms_norm": _Words(*_STREAM),
    "statistics_scaled": _Words(*_STREAM),
    "mean_not_written": _Words(*_STREAM),
    "activated": _Words(
        "{tensor}: an activation reads {held} in new channels, and gives something else of them",
        "The layer before the output matrix bends what new channels hold, so that the norm behind it finds other statistics.",
    ),
    "scales_differ_under_layer_norm": _Words(
        "{where}: channels that are scaled differently meet one {norm}",
        "LayerNorm subtracts the mean over all channels, which is the source's only where all of them have one scale.",
    ),
    "noise_is_read": _Words(
        "new {units} hold {content}, and add to the residual stream at once",
        "New heads or units write to the residual stream from the first step on, though they know nothing yet.",
        by_design=True,
    ),
    "next_layer": _Words(
        "new rows come from the next layer (advanced knowledge)",
        ("Part of each layer was replaced by knowledge of the layer above: a worse start, and by the paper faster learning."),
        by_design=True,
    ),
    "scores_scaled": _Words(
        "{tensor}: scores are {factor:.3g} times the source's, {scaled}",
        "Attention is sharper, or flatter, than the source's.",
        by_design=True,
    ),
    "noise_added": _Words(
        "noise of {noise:g} standard deviations lies on the new rows and columns",
        "New weights were shaken a little, so that copies do not stay equal for ever.",
        by_design=True,
    ),
    "positions_stretched": _Words(
        "positions are stretched over the longer table",
        "Each position's embedding was moved to make room for more positions, so that old positions mean others.",
        by_design=True,
    ),
    "context_changed": _Words(
        "{what}: {departs}",
        "How tokens find each other was changed on purpose, as for longer texts: training gets the model used to it.",
        by_design=True,
    ),
    "normalizes_again": _Words(
        "an added layer normalizes again, and LN(LN(x)) is not LN(x) in a post-LN model",
        "In a post-LN model even a layer that adds nothing normalizes its input once more, and that changes it.",
    ),
    "layers_reordered": _Words(
        "the source's layers are reordered or left out",
        "The source's layers do not stand in their old order, or not all of them are there.",
        by_design=True,
    ),
    "random_layers": _Words(
        "added layers are random and change what they pass on",
        "New layers compute something at random, and all later layers get their output.",
        by_design=True,
    ),
    "repeated_layers": _Words(
        "added layers repeat the source's and change what they pass on",
        "Layers are gone through a second time, and the second pass changes what the first one made.",
        by_design=True,
    ),
    "averaged_layers": _Words(
        "layers are averages of several of the source's",
        "Some layers are the average of several, which computes what none of them does.",
        by_design=True,
    ),
    "routing_changed": _Words(
        "{tensor}: {experts} experts of which {chosen} are chosen, where the source has {old} and chooses {old_chosen}",
        (
            "A token goes through other experts than in the source, or through the same ones by other shares. With r times as "
            "many experts of which r times as many are chosen nothing changes."
        ),
        by_design=True,
    ),
    "units_redrawn": _Words(
        "{share:.3g} of the units of each expert are drawn anew (drop-upcycling)",
        "Part of what each expert knew was replaced by random values, so that experts learn different things.",
        by_design=True,
    ),
    "parts_routed_apart": _Words(
        "{tensor}: each of the {parts} parts of an FFN has a row of its own, so that a token may miss some of them",
        "A token goes through some parts of the layer's network more than once, and through others not at all.",
        by_design=True,
    ),
    "gates_not_renormalized": _Words(
        "{tensor}: the gates of the {chosen} of {experts} experts that are chosen are not divided by their sum",
        (
            "What experts add is multiplied by numbers that sum to something else for each token. They sum to 1 where "
            "norm_topk_prob is true, or where all experts are chosen."
        ),
        by_design=True,
    ),
    "groups_changed": _Words(
        (
            "{tensor}: {groups} groups of experts of which {of_groups} are chosen, where the source has {old_groups} and "
            "chooses {old_of_groups}, for {copies} times as many experts"
        ),
        (
            "A token's experts are of other groups than in the source. With r times as many experts, r times as many groups of "
            "which r times as many are chosen change nothing."
        ),
        by_design=True,
    ),
    "layer_kinds_differ": _Words(
        "{tensor}: a layer of another kind than the one that it is made of",
        "A layer attends otherwise (a window, positions), or has other norms, than the layer whose weights it has.",
    ),
    "writers_differ": _Words(
        "{tensor}: what is added to the residual stream has another form than what it is added to",
        "Two things that are summed were grown in different ways.",
    ),
    "writers_scaled_differently": _Words(
        "{tensor}: what is added to the residual stream has another scale",
        "Two things that are summed were grown to different scales.",
    ),
    "copies_are_read_as_others": _Words(
        "{tensor}: reads channels as others than those that they copy",
        "Weights meet channels that they were not trained for.",
    ),
    "copies_are_read_unevenly": _Words(
        "{tensor}: does not read each source channel alike",
        "Some of the source's channels count for more than before.",
    ),
    "mean_is_read": _Words(
        "{tensor}: reads channels at the mean",
        "Channels that hold a mean are read as if they held something of their own.",
    ),
    "uneven_channels_of_head": _Words(
        "{tensor}: the channels of a head are not repeated alike under its norm",
        "A norm over each head finds other statistics than in the source.",
    ),
    "logits_scaled": _Words(
        "{tensor}: logits are multiplied by {factor:g}",
        "All logits are larger or smaller by one factor.",
    ),
}

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
            facts["units"] = " and ".join(_NAMES[grown] for grown in _grown(plan, noisy))
        found = _reason(plan, tensor, Break(cause.code, facts))
        reasons.setdefault(found.cause, found)
    return [*reasons.values(), *_options(plan)]


def _grown(plan: GrowthPlan, ports: Collection[str]) -> list[str]:
    """Which of these ports grow: heads in number, or in their dimension."""
    grown = [port for port in _NAMES if port != RESIDUAL and port in ports and port in plan.maps and plan.maps[port].grows]
    return grown + ["head_dim"] * ("heads" in ports and _wider_heads(plan))


def _wider_heads(plan: GrowthPlan) -> bool:
    """Whether the channels of a head's queries, keys or values grow."""
    old, new = plan.source, plan.target
    return any(getattr(old, key) != getattr(new, key) for key in ("head_dim", "qk_nope_head_dim", "v_head_dim"))


def _options(plan: GrowthPlan) -> list[Reason]:
    growth, found = plan.growth, []
    widens = any(axis_map.grows for axis_map in plan.maps.values()) or _wider_heads(plan)
    if plan.content.units is Units.COPY and growth.symmetry == "none" and growth.noise and widens:
        found.append(_reason(plan, None, Break("noise_added", {"noise": growth.noise})))
    if any(plan.stretches(tensor) for tensor in plan.tensors.values()):
        found.append(_reason(plan, None, Break("positions_stretched")))
    found += [_reason(plan, None, Break("context_changed", asdict(change))) for change in plan.context]
    return found


def _reason(plan: GrowthPlan, tensor: str | None, cause: Break) -> Reason:
    words = _WORDS[cause.code]
    facts = dict(cause.facts)
    source, target = plan.source_graph.sizes, plan.graph.sizes
    stream = target[RESIDUAL] / source[RESIDUAL]
    heads = target["heads"] * target["head_dim"] / (source["heads"] * source["head_dim"])
    port = facts.get("port")
    of_heads, of_latent = port == "heads", port in LATENT_KEYS
    grown = f"x{heads:g} of its heads' channels" if of_heads else f"x{stream:g}"
    factor = "by NAI eq. 14's factor, which is right for scores over sqrt(D) and not over sqrt(d_k)"
    told = {
        "where": f"{plan.family.name} at {f'{port} {source[port]} -> {target[port]}' if of_latent else grown}",
        "channels": _NAMES[port] if of_latent else "channels of heads" if of_heads else "channels of the residual stream",
        "held": (plan.content.units if of_heads or of_latent else plan.content.stream).value,
        "content": plan.content.units.value,
        "scaled": factor if plan.growth.paper_factor else "since nothing makes up for the dimension of heads",
        "tensor": tensor,
    } | facts
    for norm, place in _norms(plan.graph):
        if norm.gain == tensor:
            told |= {"kind": _NORMS[norm.kind], "norm": f"{_NORMS[norm.kind]} {place} ({tensor})"}
            break
    if "length" in facts:
        length = facts["length"]
        told["departs"] = (
            f"position {length} is the first that attends otherwise"
            # The types that look at a text's length turn all of a longer one otherwise.
            if plan.family.objective == "clm" and (length == 1 or not facts["positions"])
            else f"texts of more than {length} tokens are attended otherwise"
        )
    if "counts" in facts:
        told["counts"] = " and ".join(f"{count:g}" for count in facts["counts"])
    return Reason(cause.code, words.cause.format(**told), words.meaning.format(**told), words.by_design, tensor)


def _norms(graph: Model) -> Iterator[tuple[Norm, str]]:
    """Every norm, and what it reads."""
    found: list[tuple[Norm | None, str]] = [(graph.head.norm, "before the output matrix")]
    for stack in graph.stacks:
        found += [(stack.embedding_norm, "behind the embeddings"), (stack.final, "behind the last layer")]
    for branch in (branch for layer in graph.layers for branch in layer.branches):
        found += [(branch.pre, "before a branch"), (branch.post, "on what a branch adds"), (branch.ends, "behind a branch")]
        if isinstance(branch.body, Attention):
            found += [(norm, f"over {_SPANS[norm.span]} {_PLURALS[part]}") for norm, part, _ in head_norms(branch.body)]
            found += [(latent.norm, "over a latent") for latent in branch.body.latents]
    yield from ((norm, place) for norm, place in found if norm is not None)


_SPANS = {"all": "all heads'", "head": "each head's"}
_PLURALS = {"query": "queries", "key": "keys"}


def predict_moments(plan: GrowthPlan) -> list[str]:
    """Return why grown moments are not those that the source's own gradients would have come to; none where they are.

    What starts without moments is no departure.
    """
    causes = [reason.cause for reason in predict(plan)]
    free = any(
        INIT in each.codes
        for name, maps in plan.index_maps.items()
        for each, axis, role in zip(maps, plan.tensors[name].axes, plan.tensors[name].roles, strict=True)
        if role == "in" and RESIDUAL in axis.ports
    )
    if plan.maps[RESIDUAL].grows and plan.graph.stream_norm == "layer" and free:
        causes.append("readers of new channels enter the mean that LayerNorm takes from its gradient")
    if plan.growth.symmetry != "none":
        causes.append("copies that noise makes unlike have gradients of their own")
    if plan.upcycling is not None and not plan.upcycling.gates_stay:
        causes.append(f"gates differ from token to token, and {plan.upcycling.shares}")
    if plan.takes_moments:
        option = f"new_moments: {plan.growth.new_moments}"
        causes.append(f"copies that do not share their source's gradient have its moments ({option})")
    return causes


def predict_steps(plan: GrowthPlan) -> list[str]:
    """Return why a step of what the target has of its source would not be the source's step, the gradients being its own.

    Elements of AdamW and Lion move by their rate whatever the scale of their gradient, so that a weight a times the source's
    goes on as that at a times the rate. Muon: a gradient R G S^T of a matrix whose outputs and inputs are there c and d times
    has the singular values of G, times sqrt(c d), and its step is R O S^T / sqrt(c d), where O is that of G.
    """
    found: dict[str, list[str]] = {}
    kinds: dict[tuple[object, ...], str | None] = {}
    for name, maps in plan.index_maps.items():
        tensor = plan.tensors[name]
        if tensor.buffer or (tensor.layer is not None and plan.layers[tensor.layer].added):
            continue
        # Layers, and experts, are made alike.
        alike = (*map(id, maps), tensor.axes, tensor.roles, tensor.group)
        if alike not in kinds:
            kinds[alike] = _step(plan, tensor, maps)
        if kinds[alike] is not None:
            found.setdefault(kinds[alike], []).append(name)
    causes = [_STEPS[kind].format(_named(names)) for kind, names in found.items()]
    if plan.optimizer == "muon" and plan.upcycling is not None and plan.upcycling.pieces > 1:
        causes.append("Muon orthogonalizes each part of what was one network by itself, which gives other steps than the whole")
    return causes


_STEPS = {
    "beside": "Muon orthogonalizes the new rows and columns of {} together with the source's, whose steps are then others",
    "uneven": "the source's rows, or columns, are not equally often in {}, and Muon finds other singular vectors there",
    "longer": "steps of {} are longer or shorter than the source's, unless optimizer.width_rates is spectral",
    "scaled": (
        "weights of {} were multiplied by a factor; their steps match the source's only if their learning rate is multiplied "
        "too (growth.element_rates of adamw, or optimizer.width_rates)"
    ),
    # No rate by width is of what sums no inputs.
    "scaled vectors": (
        "values of {} were multiplied by a factor; their steps match the source's only if their learning rate is multiplied "
        "too (growth.element_rates of adamw)"
    ),
}


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _step(plan: GrowthPlan, tensor: Tensor, maps: Sequence[AxisIndexMap]) -> str | None:
    """Return how the step of a tensor departs from the source's, a key of `_STEPS`; None where it is that one."""
    if plan.optimizer == "muon" and steps_as_matrix(tensor):
        return _step_of_matrix(plan, tensor, maps)
    scaled = any(bool((each.factors[each.keeps_moments] != 1).any()) for each in maps)
    if not scaled or plan.growth.element_rates:
        return None
    return "scaled" if "in" in tensor.roles else "scaled vectors"


def _step_of_matrix(plan: GrowthPlan, tensor: Tensor, maps: Sequence[AxisIndexMap]) -> str | None:
    """Return the same of a matrix that Muon steps."""
    if not all(bool(each.keeps_moments.all()) for each in maps):
        return "beside"
    counts = [torch.bincount(each.indices) for each in maps]
    if not all(bool((each == each[0]).all()) for each in (*counts, *(each.factors for each in maps))):
        return "uneven"
    # R G S^T / (a c d) is orthogonalized to R O S^T / sqrt(c d), and a R O S^T is what the source's step comes to.
    factor = math.prod(float(each.factors[0]) for each in maps) * math.sqrt(math.prod(int(each[0]) for each in counts))
    out = tensor.roles.index("out")
    for numbers in itertools.product(*(range(len(axis.parts)) for axis in tensor.axes)):
        ports = [axis.parts[number].ports for axis, number in zip(tensor.axes, numbers, strict=True)]
        before, after = ([numel(each, graph.sizes) for each in ports] for graph in (plan.source_graph, plan.graph))
        scales = (muon_scale(sides[out], sides[1 - out]) for sides in (before, after))
        if not math.isclose(factor * next(scales), next(scales), rel_tol=1e-9):
            return "longer"
    return None


_COPIES = (Stream.COPY, Stream.SQRT_COPY, Stream.MEAN_OF_COPIES)


def predict_duplicates(plan: GrowthPlan) -> list[str]:
    """Return the ports whose new indices are copies that training cannot tell from what they copy.

    What is read and written alike has the same gradient: the model goes on as one of the source's width. Dropout alone,
    which draws for each unit, would part them.
    """
    content, growth = plan.content, plan.growth
    residual = plan.maps[RESIDUAL]
    if growth.symmetry != "none" or growth.noise:
        return []
    alike = plan.copies_experts or (plan.upcycling is not None and plan.upcycling.leaves_alike)
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
    units = stream and content.units is Units.COPY and not _wider_heads(plan)
    ports = ([RESIDUAL] if stream else []) + (["heads", "ffn"] if units else [])
    return [port for port in ports if plan.maps[port].grows]


def duplicates_warning(duplicates: Sequence[str]) -> list[str]:
    """Return what there is to say of a growth's duplicates, by the ports that have them."""
    if not duplicates:
        return []
    new = ", ".join(_NAMES[port] for port in duplicates)
    return [
        f"Training cannot tell new {new} from those that they copy, without dropout: the model learns as a narrower one; "
        "`symmetry: paired`, or width: exact_aki, makes them unlike"
    ]


_NAMES = {
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


def promises(plan: GrowthPlan) -> list[str]:
    """Say why operators were chosen, what will be exact, what will not and why, and what will not learn."""
    reasons, counts = predict(plan), tokens_counted(plan.tokens, plan.source.vocab_size)
    lines = [
        *plan.remarks,
        *plan.choices,
        f"function: {exactness(reasons)}{over_both({'tokenizers': plan.tokenizer, 'tokens': counts})}",
        *(f"  {reason.cause}" for reason in reasons),
    ]
    lines += [f"warning: {line}" for line in duplicates_warning(predict_duplicates(plan))]
    lines += [f"warning: {line}" for line in (few_tokens_warning(counts) if plan.tokenizer is not None else [])]
    lines += plan.growth.added.described
    if plan.growth.added.steps and plan.graph.parameters == plan.stored_graph.parameters:
        lines.append("  this growth adds nothing: that is the rate of what an earlier one added and had not finished, if any")
    if plan.growth.optimizer_state == "grow":
        causes = predict_moments(plan)
        lines += [f"the optimizer's state: {'approximate' if causes else 'exact'}", *(f"  {cause}" for cause in causes)]
        lines += [f"steps: {cause}" for cause in predict_steps(plan)]
    return lines
