"""The time that is left, where steps cost differently; what a person reads."""

import pytest

from pipeline.families import scratch_config
from pipeline.flops.counts import ForwardFlops
from pipeline.recipe import Recipe
from pipeline.training.monitoring.progress import Progress, duration
from pipeline.training.monitoring.utilization import Speed, speeds
from pipeline.training.plan.training_plan import expected_flops, plan_training
from pipeline.training.plan.workload import Outlook, Workload

CONTENT = {
    "run_dir": "unused",
    "train_batch_size": 4,
    "data": {"shards": "unused", "sequence_length": 16},
    "source": {"model": {"family": "gpt2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}, "steps": 7},
    "target": {"hidden_size": 64, "num_hidden_layers": 6},
    "stages": [{"name": "sub", "submodel_layers": 2, "steps": 50}, {"name": "full", "steps": 5, "sequence_length": 8}],
}


def plan_of():
    """A run of three stages, and each phase's model."""
    recipe = Recipe.model_validate(CONTENT)
    configs = {
        number: scratch_config(
            recipe.source.model.model_copy(update={"hidden_size": hidden, "num_hidden_layers": layers}), 50, 0, 16
        )
        for number, (hidden, layers) in enumerate([(32, 2), (64, 6)])
    }
    batch = {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4}
    return recipe, configs, plan_training(recipe, configs, lambda mix: 1000, batch, 1)


def test_what_is_left_is_the_sum_of_the_steps_to_come():
    recipe, configs, training_plan = plan_of()
    workload = Workload(recipe, training_plan, lambda phase: configs[phase])
    costs = [
        expected_flops(recipe, ForwardFlops.of(configs[plan.phase]), plan, plan.active_layers(step)).executed_total
        for plan in training_plan.stages
        for step in range(plan.begin, plan.end)
    ]
    # At the ends of stages to the last FLOP; within one of sub-models by their mean.
    for step in (0, 3, 7, 57, 60, 62):
        assert workload.left(step) == pytest.approx(sum(costs[step:]), rel=1e-12)
    assert len(set(costs[7:57])) == 3
    assert workload.left(30) == pytest.approx(sum(costs[7:57]) * 27 / 50 + sum(costs[57:]))


class Uneven:
    """Ten steps of one FLOP, then ten of a hundred."""

    steps = 20

    def left(self, step: int) -> float:
        return max(0, 10 - step) + 100.0 * min(10, 20 - step)


def test_the_time_left_is_that_of_the_flops_left():
    outlook = Outlook(Uneven())
    for step in range(1, 6):
        outlook.step(1, 2.0)  # two seconds a FLOP
        assert outlook.seconds_left(step) == pytest.approx(2.0 * Uneven().left(step))
    # By steps it would be half a minute.
    assert outlook.seconds_left(5) == pytest.approx(2010)


def test_the_time_left_follows_a_change_of_speed():
    outlook = Outlook(Uneven())
    outlook.step(10, 600.0)
    for _ in range(100):
        outlook.step(100, 10.0)
    # Ten half-lives and more after the slow step, it counts less than a thousandth of what it did.
    assert outlook.seconds_left(15) == pytest.approx(50.0, rel=0.01)


def test_the_last_step_is_told_where_there_is_no_terminal(messages):
    progress = Progress(Uneven(), 18, shown=True)
    speed = Speed(tokens_per_second=123_400, tflops=12.34, mfu=0.4321)
    progress.step(19, "full", 2.5, speed, 100, 1.0)
    progress.step(20, "full", 2.25, speed, 100, 1.0)
    progress.close()
    assert messages == ["full: step 20/20, loss 2.250, 123.4k tokens/s, 12.3 TFLOP/s, MFU 43.2%, 0:00 left"]


def test_a_rest_is_no_part_of_the_time_left(messages, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pipeline.training.monitoring.progress.time.monotonic", lambda: now[0])
    progress = Progress(Uneven(), 10, shown=True)
    speed = Speed(1000.0, 1.0, 0.5)
    for step, passed in ((11, 1.0), (12, 1.0), (13, 100.0)):
        if step == 13:
            progress.rest()
        now[0] += passed
        progress.step(step, "full", 2.0, speed, 100, 1.0)
    progress.close()
    assert "step 13/20" in messages[-1] and messages[-1].endswith(", 0:07 left")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (75, "1:15"), (3_600, "1:00:00"), (86_400 * 3 + 7_200, "3 d 02 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_speeds_by_stage_weigh_steps_by_their_seconds():
    def record(step, stage, tokens, flops, seconds, mfu):
        return {"step": step, "stage": stage, "tokens": tokens, "flops_model": flops, "seconds": seconds, "mfu": mfu}

    by_stage = speeds(
        [
            record(1, "a", 10, 2 * 10**12, 1.0, 0.5),
            record(2, "a", 20, 4 * 10**12, 3.0, 0.1),
            record(3, "b", 50, 10**12, 2.0, 1.0),
        ]
    )
    assert by_stage["a"] == pytest.approx({"tokens_per_second": 5.0, "tflops": 1.5, "mfu": 0.2})
    assert by_stage["b"] == pytest.approx({"tokens_per_second": 15.0, "tflops": 0.5, "mfu": 1.0})
