"""What every operator does to the function of every family at several ratios: `python -m tests.benchmarks.exactness`.

Prints, for width and for depth, max |delta logit| between a small float64 model and what it grows into, with the verdict
that is given beforehand: E exact, a approximate, d inexact by design, r refused. The models are random ones, and of post-LN
families, where `auto` has to choose among what is not exact, also ones of 64 channels that were trained for some minutes to
fill in characters of Python's documentation.
"""

import logging
from pydoc_data.topics import topics

import torch

from pipeline.common.errors import UserError
from pipeline.families import family_of
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.reasons import Exactness, exactness, predict
from tests.benchmarks.made_up import scratch
from tests.benchmarks.measuring import table
from tests.pipeline.growth.models import FAMILY_NAMES, grown_tensors, loaded, plan_of, small_model, tokens

WIDTH = {
    "fpi": {"width": "fpi"},
    "fpi, random map": {"width": "fpi", "map": "random"},
    "fpi, paired noise": {"width": "fpi", "symmetry": "paired", "noise": 0.25},
    "aki": {"width": "aki"},
    "nai": {"width": "nai"},
    "nai, last": {"width": "nai", "neighbours": "last"},
    "nai, noise": {"width": "nai", "noise": 0.02},
    "nai, paper factor": {"width": "nai", "paper_factor": True},
    "direct_copy": {"width": "direct_copy"},
    "zero_pad, noise": {"width": "zero_pad", "noise": 0.02},
    "zero_pad, scaled": {"width": "zero_pad", "scaled": True},
    "average_pad": {"width": "average_pad"},
    "sqrt_count": {"width": "sqrt_count"},
    "hypercloning": {"width": "hypercloning"},
    "exact_aki": {"width": "exact_aki"},
}
WIDTH_TARGETS = {"x2": {"hidden_size": 64}, "x1.5": {"hidden_size": 48}, "x2.5": {"hidden_size": 80}}
DEPTH = {name: {"depth": name} for name in ("stack", "random", "last_layer", "interleave")}
DEPTH_TARGETS = {"x2": {"num_hidden_layers": 8}, "x1.5": {"num_hidden_layers": 6}}
LETTER = {Exactness.EXACT: "E", Exactness.APPROXIMATE: "a", Exactness.BY_DESIGN: "d"}

TRAINED = ("bert", "roberta")
TRAINED_WIDTHS = {ratio: {"hidden_size": round(64 * float(ratio[1:]))} for ratio in ("x1.25", "x1.5", "x1.75", "x2.25", "x2.5")}
TRAINED_DEPTHS = {f"{layers} layers": {"num_hidden_layers": layers} for layers in (5, 6, 8, 12)}
STEPS, BATCH, WINDOW, MASKED, MASK = 4000, 32, 64, 0.15, 2
"""Of the training of a model of characters: the mask is a character that the text does not have."""


def cell(model, ids, target, growth) -> str:
    """Return max |delta logit| and the verdict's letter."""
    try:
        plan, config = plan_of(model, target, growth)
    except UserError:
        return "r"
    moved = (outputs(loaded(grown_tensors(plan, model), config), ids) - outputs(model, ids)).abs().max().item()
    return f"{moved:.0e} {LETTER[exactness(predict(plan))]}"


def outputs(model, ids) -> torch.Tensor:
    """Return all logits, of tokens and of pairs where there are any, in one row."""
    family = family_of(model.config)
    with torch.no_grad(), Float64Casts():
        given = model(input_ids=ids)
    return torch.cat([given[field].flatten() for field in (family.logits, family.pair_logits) if field])


def table_of(operators: dict[str, dict], targets: dict[str, dict], models: dict[str, tuple]) -> str:
    """Return a Markdown table, a row an operator, a column a model (with its window of ids) and ratio."""
    columns = [(name, ratio) for name in models for ratio in targets]
    rows = [[name, *(cell(*models[of], targets[ratio], growth) for of, ratio in columns)] for name, growth in operators.items()]
    return table(["operator", *map(" ".join, columns)], rows)


def random_models(layers: int) -> dict[str, tuple]:
    return {family: (small_model(family, layers=layers), tokens()) for family in FAMILY_NAMES}


def trained_model(family: str) -> tuple:
    """Return a model trained to fill in characters, in float64, and eight windows of text with masks in it."""
    text = torch.tensor(list("\n".join(topics.values()).encode("ascii", "ignore")))
    torch.manual_seed(0)
    known, config = scratch(family, 4, 64, 128, WINDOW, heads=4)
    model = known.model_class(config)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    draw = torch.Generator().manual_seed(1)

    def windows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(text) - WINDOW, (count, 1), generator=draw)
        read = text[starts + torch.arange(WINDOW)]
        masked = torch.rand(read.shape, generator=draw) < MASKED
        return read.masked_fill(masked, MASK), read.masked_fill(~masked, -100)

    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 200) * (1 - step / STEPS)
        input_ids, labels = windows(BATCH)
        loss = model(input_ids=input_ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(f"{family} of characters: loss {loss.item():.3f} after {STEPS} steps")
    return model.double().eval(), windows(8)[0]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(table_of(WIDTH, WIDTH_TARGETS, random_models(3)), table_of(DEPTH, DEPTH_TARGETS, random_models(4)), "", sep="\n\n")
    trained = {f"trained {family}": trained_model(family) for family in TRAINED}
    print(table_of(WIDTH, TRAINED_WIDTHS, trained), table_of(DEPTH, TRAINED_DEPTHS, trained), sep="\n\n")
