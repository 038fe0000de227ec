"""First steps that several runs of a suite have in common, as separate runs from whose end these go on."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.recipe import UNITS, GrowStage, Recipe, ScheduleConfig, TrainStage
from pipeline.recipe.stages import Stage
from pipeline.reproduction.task import Task
from pipeline.training.plan.training_plan import StagePlan
from pipeline.training.preparation.preparation import Planned
from pipeline.training.run.branching import common_steps


def with_trunks(tasks: Sequence[Task], course_of: Callable[[Task], Planned], least: int) -> tuple[list[Task], list[Task]]:
    """Return the runs of the first steps that several of the tasks have in common, and the tasks going on from those.

    Each such run, a trunk, has `least` steps or more beyond the one that it goes on from itself; shorter ones come first.
    """
    courses = {task.name: course_of(task) for task in tasks if task.recipe.source.path is None}
    depths: dict[str, set[int]] = {name: set() for name in courses}
    common: dict[tuple[str, str], int] = {}
    for (one, mine), (other, its) in itertools.combinations(courses.items(), 2):
        # Most pairs differ in these, which is seen at once.
        if (mine.recipe.seed, mine.recipe.optimizer.lr) != (its.recipe.seed, its.recipe.optimizer.lr):
            continue
        steps, _ = common_steps(mine, its)
        common[one, other] = common[other, one] = steps
        for name, course in ((one, mine), (other, its)):
            if steps < course.training_plan.steps:
                depths[name].add(steps)
    trunks: dict[str, Task] = {}
    of_task: dict[tuple[str, int], Task] = {}
    found = []
    for task in tasks:
        last, before = 0, None
        for depth in sorted(depths.get(task.name, ())):
            if depth - last < least:
                continue
            others = (of_task.get((other.name, depth)) for other in tasks if common.get((task.name, other.name), 0) >= depth)
            trunk = next(filter(None, others), None) or _trunk(task, courses[task.name], depth, before, course_of)
            if trunk is None:
                continue
            of_task[task.name, depth] = trunk
            trunks[trunk.name] = trunk
            last, before = depth, trunk
        found.append(replace(task, trunk=before))
    return sorted(trunks.values(), key=lambda trunk: _steps(trunk.recipe)), found


def _steps(recipe: Recipe) -> int:
    """The steps of a trunk, all of whose lengths are in steps."""
    return sum(stage.steps or 0 for stage in recipe.train_stages)


def _trunk(task: Task, course: Planned, depth: int, before: Task | None, course_of: Callable[[Task], Planned]) -> Task | None:
    """The first steps of a run as a separate run, at the peak rate once warm; None where that would not be the same steps."""
    plans = {plan.stage.name: plan for plan in course.training_plan.stages}
    stages: list[Stage] = []
    for stage in task.recipe.stages:
        plan = plans.get(stage.name)
        if plan is None or plan.begin < depth:
            stages.append(stage if plan is None else _cut(plan, depth))
    while stages and isinstance(stages[-1], GrowStage):
        stages.pop()
    if not stages or task.recipe.source.length is not None:
        return None
    schedule = ScheduleConfig(name="constant", warmup_steps=task.recipe.schedule.warmup_steps, span=task.recipe.schedule.span)
    recipe = task.recipe.model_copy(update={"stages": stages, "schedule": schedule, "run_dir": ""})
    name = f"trunk-{hashlib.blake2b(recipe.to_yaml().encode(), digest_size=5).hexdigest()}"
    trunk = Task(name, task.directory, recipe, may_diverge=task.may_diverge, trunk=before)
    trunk = replace(trunk, recipe=recipe.model_copy(update={"run_dir": str(trunk.run)}))
    return trunk if common_steps(course_of(trunk), course)[0] >= depth else None


def _cut(plan: StagePlan, depth: int) -> TrainStage:
    """A stage with the steps that it has by a step of the run."""
    return plan.stage.model_copy(update=dict.fromkeys(UNITS) | {"steps": min(plan.end, depth) - plan.begin})
