"""Attention of a run's model: its source beside it right after growth, and what training made of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig

from data_prep.tokenizers.loading import load_tokenizer
from pipeline.common.errors import UserError
from pipeline.families import Family
from pipeline.families.tensors import RESIDUAL
from pipeline.growth.fused_parameters import parameters_of
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.plan import GrowthPlan
from pipeline.growth.state import State
from pipeline.growth.weighted_norms import WeightedNorms
from pipeline.report import prose
from pipeline.report.attention.compared import GROWN, TRAINED, ComparedHeads, HeadOrigin, head_origins
from pipeline.report.attention.options import AttentionOptions
from pipeline.report.attention.plots import (
    KINDS,
    close_up,
    duplicates_plot,
    layer_plot,
    layers_plot,
    source_and_target,
    within_layers,
)
from pipeline.report.attention.repeated_growth import AbsentError, check_size, repeat_growth
from pipeline.report.attention.similarity import layer_similarity
from pipeline.runs import RunPaths

MAX_TOKENS = 40
"""Tokens of a sentence that are shown; more would be too small to see."""

_FEWEST_TOKENS = 4
_MOST_HEADS = 6
_MATCHES = 0.9995
"""The similarity from which attention is called the same; what is less is given as a figure alone."""


def attention_section(run: Path, options: AttentionOptions) -> dict[str, Any]:
    """Return figures (`plots`) and sentences (`lines`) on the attention of a finished run, or the `reason` why there are none.

    Raises UserError for a layer or a head that the target has not.

    The grown model is made again from the source, by the plan that grew it, and is the one that training began with. All
    models are Hugging Face's classes in float32.
    """
    try:
        return _shown(RunPaths(run), options)
    except AbsentError as reason:
        return {"reason": str(reason)}


@contextmanager
def _absent_where_unreadable() -> Iterator[None]:
    try:
        yield
    except UserError as reason:
        raise AbsentError(str(reason)) from None


def _shown(run: RunPaths, options: AttentionOptions) -> dict[str, Any]:
    if not run.model.is_dir():
        raise AbsentError("the run is not finished: it has no model yet")
    with _absent_where_unreadable():
        trained = open_huggingface(run.model)
    check_size(trained.config)
    growth = repeat_growth(run)
    plan, source = growth.plan, growth.source
    origins = head_origins(plan)
    chosen = _chosen(plan, origins, options)
    usable = [plan.family.usable_positions(sizes) for sizes in (plan.source, plan.target)]
    most = min([MAX_TOKENS, *(one for one in usable if one is not None)])
    ids, tokens, cut = _tokens(run.model, options.sentence, plan, most)
    maps = attention(source.family, source.config, source.state, ids)
    targets = {GROWN: attention(plan.family, growth.target, plan.grow(source.state), ids, plan)}
    if growth.last:
        targets[TRAINED] = attention(trained.family, trained.config, trained.state, ids)
    compared = ComparedHeads(plan, origins, *chosen, tokens, maps, targets)
    return {
        "lines": [
            prose.text("attention", "about", options.sentence, len(tokens), cut, compared.causal),
            *([] if growth.last else prose.lines("attention", "grown_again", growth.number)),
            *_findings(compared),
        ],
        "plots": [
            *(layer_plot(compared, layer) for layer in compared.layers),
            *close_up(compared),
            *source_and_target(compared),
            *within_layers(compared),
            *layers_plot(compared),
            *duplicates_plot(compared),
        ],
    }


@torch.no_grad()
def attention(
    family: Family, config: PretrainedConfig, state: State, ids: Sequence[int], plan: GrowthPlan | None = None
) -> torch.Tensor:
    """Return the attention probabilities [layers, heads, S, S] of a model in float32, a query a row.

    A model that was grown by `plan` with weighted norms has them, as where its training begins.
    """
    held = parameters_of(family.graph(config), state)
    tensors = {name: tensor.rows(0, tensor.shape[0]).float() for name, tensor in held.items()}
    model = family.model_class.from_pretrained(
        None, config=config, state_dict=tensors, attn_implementation="eager", dtype=torch.float32
    ).eval()
    if plan is not None and plan.growth.norm_statistics == "weighted":
        residual = plan.maps[RESIDUAL]
        WeightedNorms(model, family.graph(config), residual, plan.growth.norm_anneal_steps)
    maps = torch.cat(model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False).attentions)
    if not maps.isfinite().all():
        raise AbsentError("the attention of a model of this run holds values that are not numbers")
    return maps


def _tokens(directory: Path, sentence: str, plan: GrowthPlan, most: int) -> tuple[list[int], list[str], bool]:
    """Return a sentence's ids and their spelling, and whether it was cut; a masked model's begin as its windows do."""
    with _absent_where_unreadable():
        tokenizer = load_tokenizer(directory)
    ids = tokenizer.encode_batch([sentence])[0]
    opening = tokenizer.cls_id if plan.family.objective == "mlm" else None
    ids = ids if opening is None else [opening, *ids]
    if len(ids) < _FEWEST_TOKENS:
        raise AbsentError(f"the sentence {sentence!r} has {len(ids)} tokens, too few to show anything")
    kept = ids[:most]
    if max(kept) >= plan.source.vocab_size:
        raise AbsentError(f"the sentence {sentence!r} has tokens that the source's vocabulary has not")
    spelt = ["[cls]" if token == opening else tokenizer.decode([token]).strip() or "␣" for token in kept]
    return kept, spelt, len(ids) > most


def _chosen(plan: GrowthPlan, origins: list[list[HeadOrigin]], options: AttentionOptions) -> tuple[list[int], list[int]]:
    """Return the target's layers and heads to show; raises UserError for one that it has not."""
    kept, added = ([n for n, origin in enumerate(plan.layers) if origin.added == new] for new in (False, True))
    layers = options.layers or sorted({kept[0], kept[len(kept) // 2], kept[-1], *added[:1]})
    # The layers that the source has are made alike; the first is one of them.
    heads = options.heads or _default_heads(origins[0])
    for what, chosen, count in (("layer", layers, len(origins)), ("head", heads, len(origins[0]))):
        for number in chosen:
            if not 0 <= number < count:
                raise UserError(f"--{what}s: {number} is no {what} of the target, which has {what}s 0 to {count - 1}")
    return list(dict.fromkeys(layers)), list(dict.fromkeys(heads))


def _default_heads(origins: list[HeadOrigin]) -> list[int]:
    chosen: dict[int, None] = {}
    for head, origin in enumerate(origins):
        with_pair = chosen | dict.fromkeys([head, *([] if origin.duplicate is None else [origin.duplicate])])
        if origin.kind != "own" and len(with_pair) <= _MOST_HEADS:
            chosen = with_pair
    rest = [head for head in range(len(origins)) if head not in chosen]
    return sorted([*chosen, *rest[: _MOST_HEADS - len(chosen)]])


def _findings(compared: ComparedHeads) -> list[str]:
    """What the figures say, in sentences with their numbers."""
    source, found = compared.source, []
    for added in (False, True):
        for kind, meaning in KINDS.items():
            if alike := compared.reproduced(kind, added=added):
                facts = (kind, meaning, added, min(alike) > _MATCHES, np.mean(alike), min(alike))
                found.append(prose.text("attention", "reproduced", *facts))
    if duplicates := compared.duplicates:
        means = [np.mean([row[when.replace(" ", "_")] for row in duplicates]) for when in compared.targets]
        found.append(prose.text("attention", "duplicates", means, compared.unrelated))
    if source.shape[1] > 2:
        heads = np.stack([compared.similarity(layer, layer) for layer in source])
        found.append(_neighbours("heads of a layer", heads))
    if len(source) > 2:
        found.append(_neighbours("layers", layer_similarity(source, source, causal=compared.causal)[None]))
    return found


def _neighbours(what: str, alike: np.ndarray) -> str:
    """Whether neighbours are more alike than others; `alike` is [n, k, k]."""
    distance = np.abs(np.subtract.outer(np.arange(alike.shape[1]), np.arange(alike.shape[1])))
    return prose.text("attention", "neighbours", what, alike[:, distance == 1].mean(), alike[:, distance > 1].mean())
