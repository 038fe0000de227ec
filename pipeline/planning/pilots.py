"""Pilot runs: a few small ones for a share of the budget, on the target's own text, that fix the law's constants there."""

import math
from collections.abc import Sequence

from pipeline.common.errors import UserError
from pipeline.planning.recipes import recipe_of
from pipeline.planning.schedules import Kind, Question, Schedule, Size
from pipeline.recipe import Recipe

_SHORTEST = 500
"""Steps of the shortest pilot: runs of 100 steps are off the law by a tenth of a nat, since all sizes learn alike at first."""
_LENGTHS = ((1, 2, 4), (1, 2))
"""How long the smallest size is trained, and the next, in units of the shortest."""
_WARMUP = 5
"""A pilot warms up for at most one in so many of its steps."""
_STACK = Kind("depth", '{"depth": "stack", "optimizer_state": "grow"}', ("depth stack", "state grow"))
"""How a pilot grows where no run of the record did."""


def pilots(question: Question, share: float, kinds: Sequence[Kind]) -> dict[str, Schedule]:
    """Return the pilots that a share of scratch's compute pays for by name: two small sizes at several lengths, and one grown.

    Raises UserError where they would be too short to show anything.
    """
    small, large = _two_sizes(question)
    kind = next((kind for kind in kinds if kind.axis == "depth"), _STACK)
    alone = [(size, length) for size, lengths in zip((small, large), _LENGTHS, strict=True) for length in lengths]
    # The grown one is as long at either size.
    cost = sum(size.step_flops * length for size, length in [*alone, (small, 1), (large, 1)])
    steps = int(share * question.scratch_flops / cost)
    if steps < _SHORTEST:
        needed = math.ceil(1000 * _SHORTEST * cost / question.scratch_flops) / 1000
        instead = (
            f"{_SHORTEST} take {needed:.1%}, so name that share, or runs with this text by --record"
            if needed < 1
            else f"pilots of {_SHORTEST} cost more than the target on so few tokens: train it from scratch, or name more tokens"
        )
        raise UserError(
            f"--pilot: with {share:.2g} of scratch's compute the shortest pilot has {steps} steps, which show nothing of "
            f"where a run ends; {instead}"
        )
    found = {f"pilot-{size.name}-{length * steps}": Schedule((size,), (length * steps,), ()) for size, length in alone}
    grown = Schedule((small, large), (steps, steps), (kind,))
    return found | {f"pilot-{small.name}-{steps}-{large.name}-{steps}": grown}


def pilot_recipe(base: Recipe, pilot: Schedule, run_dir: str) -> Recipe:
    """Return the recipe of a pilot, whose warmup is no longer than its length bears."""
    recipe = recipe_of(base, pilot, run_dir)
    warmup = min(recipe.schedule.warmup_steps, sum(pilot.steps) // _WARMUP)
    return recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"warmup_steps": warmup})})


def _two_sizes(question: Question) -> tuple[Size, Size]:
    """The shallowest size, and the one next to a quarter of the target's layers."""
    layers = question.target.sizes["num_hidden_layers"]
    deep = [size for size in question.smaller if set(question.target.beyond(size)) == {"num_hidden_layers"}]
    if len(deep) < 2:
        raise UserError(
            f"--pilot: the target has {layers} layers, and pilots take two shallower sizes; add runs of its text by --record"
        )
    small = deep[0]
    large = min(deep[1:], key=lambda size: abs(size.sizes["num_hidden_layers"] - max(2, layers / 4)))
    return small, large
