"""Rules of thumb from the literature, which the planner has to beat: a schedule each, and what the rule says that it saves."""

import math
from typing import NamedTuple

from pipeline.planning.schedules import Kind, Question, Schedule, Size

STACKED_TOKENS = 194 / 300
"""Of the tokens that a 7B model takes from scratch, what G_stack's takes at the target's size (Du et al. 2024, abstract)."""


_STACKED = {"depth": "stack", "optimizer_state": "fresh"}


class Rule(NamedTuple):
    """A rule of thumb, applied to a question."""

    schedule: Schedule
    name: str
    claim: float
    """The share of scratch's compute that the rule itself says is saved, everything counted."""


def rules(question: Question, kinds: list[Kind]) -> list[Rule]:
    """Return what the rules make of a question in depth; one whose source the target is too shallow for is left out.

    They stack with a fresh state, as their papers do, where the record knows it, and else grow as its first runs in depth did.
    """
    deeper = [kind for kind in kinds if kind.axis == "depth"]
    if not deeper:
        return []
    stacked = [kind for kind in deeper if kind.section["depth"] == "stack"]
    kind = next((kind for kind in stacked if kind.section == _STACKED), [*stacked, *deeper][0])
    layers = question.target.sizes["num_hidden_layers"]
    shallower = [size for size in question.smaller if set(question.target.beyond(size)) == {"num_hidden_layers"}]
    by_depth = {size.sizes["num_hidden_layers"]: size for size in shallower}
    found = [_stacked(question, by_depth[layers // 4], kind)] if layers // 4 in by_depth else []
    others = [
        (layers // 2, "2x: half of the layers for half of the tokens", 0.5),
        (1, "one layer for 80 % of the tokens (Bu 2025)", 0.8),
    ]
    return found + [_same_tokens(name, question, by_depth[n], kind, share) for n, name, share in others if n in by_depth]


def growth_tokens(parameters: float, flops: float) -> float:
    """The tokens at which to stack a source of a quarter of the layers (Du et al. 2024, G_stack).

    log10 d = .88 log10 N + 163.27 / log10 C - 5.74, N being the target's parameters and C = 6 N D its compute.
    """
    return 10 ** (0.88 * math.log10(parameters) + 163.27 / math.log10(flops) - 5.74)


def _stacked(question: Question, size: Size, kind: Kind) -> Rule:
    """G_stack by its own law; it claims the loss of scratch after `STACKED_TOKENS` of its tokens."""
    asked = growth_tokens(question.target.parameters, 6 * question.target.parameters * question.tokens)
    # The law is of 0.4 to 7 billion parameters; of small runs it asks for more tokens than there are.
    first = round(min(asked, question.tokens / 2) / question.step_tokens)
    schedule = Schedule((size, question.target), (first, round(STACKED_TOKENS * question.steps)), (kind,))
    length = f"{asked:.2g} tokens" if asked <= question.tokens / 2 else "half of the tokens, where its law asks for more"
    name = f"G_stack: a quarter of the layers for {length} (Du et al. 2024)"
    return Rule(schedule, name, 1 - schedule.flops / question.scratch_flops)


def _same_tokens(name: str, question: Question, size: Size, kind: Kind, share: float) -> Rule:
    """A rule that takes tokens to be worth as much at the smaller size: what it saves is what they cost less there."""
    first = round(share * question.steps)
    schedule = Schedule((size, question.target), (first, question.steps - first), (kind,))
    return Rule(schedule, name, 1 - schedule.flops / question.scratch_flops)
