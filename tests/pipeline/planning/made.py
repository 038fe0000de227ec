"""Runs that follow a law which is known."""

import itertools
import math
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.planning.law import Law, setting_of, training_of
from pipeline.planning.recipes import question_of
from pipeline.planning.record import RunEntry, hyperparameters_of, phase_entry
from pipeline.planning.schedules import Question, size_of
from pipeline.recipe import ModelConfig, Recipe

ROOT = Path(__file__).parents[3]
STEP = 16 * 32
"""Tokens of one."""
TEXT = "made-up"
VOCABULARY = 512

TRUE = {"a": 0.3, "b": 0.4, "c": 0.05, "E": math.log(2.0), "A": -0.5, "B": -0.9, "s": 0.8, "log_r": -1.5}
"""The law's shared parameters, and those of the text."""
TRAITS = {
    "depth stack": 0.0,
    "depth random": -1.2,
    "state grow": 0.5,
    "state fresh": -0.5,
    "optimizer adamw": 0.3,
    "optimizer muon": -0.7,
}
"""What each trait adds to s."""


def recipe(**changes: object) -> Recipe:
    """A target of twelve layers from scratch."""
    content = {
        "run_dir": "runs/scratch",
        "train_batch_size": 16,
        "data": {"shards": "somewhere", "sequence_length": 32},
        "source": {
            "model": {"family": "gpt2", "hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 4},
        },
        "target": {},
        "stages": [{"name": "full", "steps": 1000}],
        "schedule": {"name": "wsd", "warmup_steps": 100, "decay_ratio": 0.2, "span": "run"},
    }
    return Recipe.model_validate(content | changes)


def question(tokens: int = 2000 * STEP) -> Question:
    """The target on so many tokens."""
    return question_of(recipe(), tokens, TEXT, VOCABULARY, None)


@cache
def sized(layers: int):
    """The target with another depth."""
    model = recipe().source.model
    return size_of(ModelConfig(**model.model_dump(exclude_unset=True) | {"num_hidden_layers": layers}), recipe(), VOCABULARY)


def entry(phases: list[tuple[int, int]], kinds: list[tuple[str, str]], text: str = TEXT) -> RunEntry:
    """A run of sizes, in layers and steps, whose loss is not known yet."""
    noted = [phase_entry(sized(layers).config, steps * STEP, steps * sized(layers).step_flops) for layers, steps in phases]
    growths = [
        {"width": None, "depth": depth, "optimizer_state": state, "schedule_anew": False, "options": {}}
        for depth, state in kinds
    ]
    name = "-".join(f"{layers}x{steps}" for layers, steps in phases) + "".join(f"-{depth}-{state}" for depth, state in kinds)
    schedule = recipe().schedule.model_dump(mode="json")
    return {
        "name": name,
        "run": f"{text}-{name}",
        "family": "gpt2",
        "text": text,
        "vocab_size": VOCABULARY,
        "sequence_length": 32,
        "seed": 1,
        "optimizer": "adamw",
        "lr": 1e-3,
        "batch_tokens": STEP,
        "schedule": schedule,
        "hyperparameters": hyperparameters_of(recipe()),
        "phases": noted,
        "growths": growths,
        "loss": 0.0,
        "flops": sum(phase["flops"] for phase in noted),
    }


def true_law(*entries: RunEntry) -> Law:
    """The law that runs follow."""
    settings = dict.fromkeys(map(setting_of, entries))
    values = {key: TRUE[key] for key in ("a", "b", "c", "s", "log_r")}
    values |= {f"{of}:{setting}": TRUE[of] for setting in settings for of in "EAB"}
    values |= {f"{of}:{setting}": 0.0 for setting in settings for of in "abcs"}
    values |= {f"trait:{trait}": more for trait, more in TRAITS.items()}
    return Law(tuple(values), np.array(list(values.values())), 0.004)


def with_losses(entries: list[RunEntry], noise: float = 0.0) -> list[RunEntry]:
    """The runs with the losses of the law, and what seeds add."""
    law, draw = true_law(*entries), np.random.default_rng(0)
    return [one | {"loss": law.loss(training_of(one)) + noise * float(draw.standard_normal())} for one in entries]


def record(noise: float = 0.0, text: str = TEXT) -> list[RunEntry]:
    """Runs of one to twelve layers at three lengths, and growths of three kinds."""
    fixed = [entry([(layers, steps)], [], text) for layers in (1, 3, 12) for steps in (500, 2000, 6000)]
    kinds = [("stack", "grow"), ("stack", "fresh"), ("random", "fresh")]
    grown = [
        entry([(small, before), (12, after)], [kind], text)
        for kind, small, (before, after) in itertools.product(kinds, (1, 3), ((1000, 500), (1000, 1500), (3000, 800)))
    ]
    return with_losses([*fixed, *grown, entry([(1, 1000), (3, 500), (12, 500)], [kinds[0]] * 2, text)], noise)
