"""What every operator does to the function of every family at several ratios: `python -m tests.benchmarks.exactness`.

Prints, for width and for depth, max |delta logit| between a small float64 model and what it grows into, with the verdict
that is given beforehand: E exact, a approximate, d inexact by design, r refused.
"""

import logging

from data_prep.errors import UserError
from pipeline.growth.exactness import Verdict, predict, verdict
from tests.pipeline.growth.models import FAMILY_NAMES, grown_tensors, loaded, logits, plan_of, small_model, tokens

WIDTH = {
    "fpi": {},
    "fpi, random map": {"map": "random"},
    "fpi, paired noise": {"symmetry": "paired", "noise": 0.25},
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
LETTER = {Verdict.EXACT: "E", Verdict.APPROXIMATE: "a", Verdict.BY_DESIGN: "d"}


def cell(model, target, growth) -> str:
    """Return max |delta logit| and the verdict's letter."""
    try:
        plan, config = plan_of(model, target, growth)
    except UserError:
        return "r"
    after = logits(loaded(grown_tensors(plan, model), config), tokens())
    moved = (after - logits(model, tokens())).abs().max().item()
    return f"{moved:.0e} {LETTER[verdict(predict(plan))]}"


def table(operators: dict[str, dict], targets: dict[str, dict], layers: int) -> list[str]:
    """Return the lines of a Markdown table, a row an operator, a column a family and ratio."""
    models = {family: small_model(family, layers=layers) for family in FAMILY_NAMES}
    columns = [(family, ratio) for family in FAMILY_NAMES for ratio in targets]
    lines = [
        "| operator | " + " | ".join(f"{family} {ratio}" for family, ratio in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, growth in operators.items():
        cells = [cell(models[family], targets[ratio], growth) for family, ratio in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print("\n".join([*table(WIDTH, WIDTH_TARGETS, 3), "", *table(DEPTH, DEPTH_TARGETS, 4)]))
