"""Draw the figures of the documentation: `python docs/site/figures.py [FOLDER]` writes docs/images/*.svg, or into FOLDER.

Matrices are those that the operators make of a real model; bars are of the tables in docs/results.
"""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline import grow
from pipeline.operators import DEPTH, WIDTH

IMAGES = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "images"
BLUE, RED, GREY, LIGHT = "#2a6f97", "#c8553d", "#8d99ae", "#cbd5e1"
OPTIONS = {"zero_pad": {"scaled": True}, "list": {"layers": [0, 1, 1, 2, 3, 3], "silent": [2, 5]}}
DEFAULTS = {option.name: option.default for operator in DEPTH.values() for option in operator.options}

plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "docs", "font.family": "sans-serif", "font.size": 9}


def save(figure: Figure, name: str) -> None:
    """Write a figure; the file is the same whenever it is drawn."""
    figure.savefig(IMAGES / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def source() -> GPT2LMHeadModel:
    """A GPT-2 of two layers x 8, whose first layer is positive and whose second is negative."""
    sizes = {"vocab_size": 8, "n_positions": 4, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 8}
    model = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.15)).double()
    pattern = torch.linspace(0.35, 1.0, 64, dtype=torch.float64).reshape(8, 8)
    with torch.no_grad():
        model.transformer.wte.weight.copy_(pattern.T)
        for layer, sign in zip(model.transformer.h, (1, -1), strict=True):
            layer.mlp.c_fc.weight.copy_(sign * pattern)
            layer.mlp.c_proj.weight.copy_(sign * pattern)
    return model


def matrices(model: GPT2LMHeadModel) -> dict[str, np.ndarray]:
    """Return what is drawn of a model: outputs downwards, inputs to the right."""
    layer = model.transformer.h[0].mlp
    return {
        "embedding\n(tokens to the right)": model.transformer.wte.weight.T,
        "first FFN matrix\n(reads the stream)": layer.c_fc.weight.T,
        "second FFN matrix\n(writes the stream)": layer.c_proj.weight.T,
    }


def panel(title: str, values: np.ndarray, left: float) -> str:
    """Return a matrix as SVG, a square for each element; lines part the source's rows and columns from the new ones."""
    rows, columns = values.shape
    colours = plt.get_cmap("RdBu")(plt.Normalize(-1.1, 1.1)(values))
    squares = "".join(
        f'<path d="M{column} {row}h1v1h-1z" fill="{to_hex(colours[row, column])}"/>'
        for row, column in np.ndindex(rows, columns)
    )
    across = f'<path d="M0 8h{columns}" class="l"/>' if rows > 8 else ""
    down = f'<path d="M8 0v{rows}" class="l"/>' if columns > 8 else ""
    words = "".join(f'<text x="{left}" y="{14 + 14 * line}">{text}</text>' for line, text in enumerate(title.splitlines()))
    return f'{words}<g transform="translate({left} 38) scale(13)">{squares}{across}{down}</g>'


def draw_matrices(model: GPT2LMHeadModel, name: str) -> None:
    """Draw three matrices of a model side by side."""
    shown = {title: weight.detach().numpy() for title, weight in matrices(model).items()}
    height = 44 + 13 * max(values.shape[0] for values in shown.values())
    panels = "".join(panel(title, values, 4 + 225 * place) for place, (title, values) in enumerate(shown.items()))
    style = "text{font:12px sans-serif;fill:#555}.l{stroke:#000;stroke-width:.09;fill:none}path{stroke:#fff;stroke-width:.04}"
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {height}" width="680"><style>{style}</style>{panels}</svg>\n'
    )
    (IMAGES / f"{name}.svg").write_text(text, encoding="utf-8")


def draw_widths() -> None:
    """Draw what each width operator makes of the source at x1.5 (hypercloning: x2)."""
    torch.manual_seed(0)
    model = source()
    draw_matrices(model, "width-source")
    for name in WIDTH:
        size = 16 if name == "hypercloning" else 12
        with TemporaryDirectory() as folder:
            sizes = {"hidden_size": size, "num_attention_heads": size // 4, "intermediate_size": size}
            grown = grow(model, Path(folder) / "grown", width=name, growth=OPTIONS.get(name), **sizes)
            draw_matrices(AutoModelForCausalLM.from_pretrained(grown.directory, dtype=torch.float64), f"width-{name}")


def draw_depths() -> None:
    """Draw where the layers of each depth operator come from, of 4 layers grown to 6."""
    figure, axes = plt.subplots(figsize=(5.2, 3.0))
    shades = plt.get_cmap("Blues")(np.linspace(0.35, 0.85, 4))
    for row, (name, operator) in enumerate(DEPTH.items()):
        for column, origin in enumerate(operator.origins(4, 6, DEFAULTS | OPTIONS.get(name, {}))):
            colour = LIGHT if origin.source is None else shades[origin.source]
            hatched = {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
            style = hatched if origin.zero_output else {"facecolor": colour}
            axes.bar(column, 0.8, 0.9, row - 0.4, linewidth=1, **style)
            text = "new" if origin.source is None else str(origin.source)
            dark = not origin.zero_output and origin.source in (2, 3)
            axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set(yticks=range(len(DEPTH)), yticklabels=list(DEPTH), xticks=range(6))
    axes.set_xlabel("layer of the target; the number inside is the source's layer")
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    save(figure, "depth")


def draw_loads() -> None:
    """Draw sources, the plan, and what is filled from it."""
    figure, axes = plt.subplots(figsize=(8, 2.7))
    box = {"boxstyle": "round,pad=0.5", "facecolor": "#eef4f8", "edgecolor": BLUE}
    left = ("Hugging Face safetensors", "ZeRO checkpoint,\nany number of ranks", "random initialization")
    right = ("live ZeRO partitions:\ntraining", "Hugging Face directory,\nstreamed", "ZeRO-3 files,\nwithout a GPU")
    plan = "plan\nfamily x width x depth\nweights and optimizer state\nrows(start, stop)"
    axes.text(0.5, 0.5, plan, ha="center", va="center", bbox=box)
    for height, (each, filled) in zip((0.9, 0.5, 0.1), zip(left, right, strict=True), strict=True):
        axes.text(0.12, height, each, ha="center", va="center", bbox=box)
        axes.text(0.88, height, filled, ha="center", va="center", bbox=box)
        for start, end in (
            ((0.28, height), (0.34, 0.5 + (height - 0.5) / 3)),
            ((0.66, 0.5 + (height - 0.5) / 3), (0.72, height)),
        ):
            axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": GREY})
    axes.set(xlim=(0, 1), ylim=(-0.05, 1.05))
    axes.axis("off")
    save(figure, "loads")


def measured(page: str, row: str, column: int) -> float:
    """Return the number in a cell of a table of docs/results."""
    text = (ROOT / "docs" / "results" / page).read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
    return float(re.match(r"[−\d.]+", line.split("|")[column + 1].strip())[0].replace("−", "-"))


SAVED = (
    ("GPT-2, 48 to 72 channels,\nsource trained as long as the target", "gpt.md", "ours (late exact AKI)", 2, 4),
    ("GPT-2, the same,\nsource trained for a quarter of that", "gpt.md", "ours, source of a quarter of the steps", 2, 4),
    ("BERT, 48 to 72 channels", "bert.md", "ours (late exact_aki)", 2, 4),
    (
        "GPT-2, 3 to 12 layers in one run,\n25 tokens for each parameter",
        "progressive.md",
        "gradually, exactly (interleave)",
        4,
        2,
    ),
)


def draw_saved() -> None:
    """Draw the compute saved, with and without the source's own."""
    figure, axes = plt.subplots(figsize=(7.2, 3.0))
    for row, (_, page, name, free, counted) in enumerate(SAVED):
        for offset, column, colour in ((-0.19, free, LIGHT), (0.19, counted, BLUE)):
            value = measured(page, name, column)
            axes.barh(row + offset, value, 0.36, color=colour)
            axes.text(max(value, 0) + 1, row + offset, f"{value:.0f} %", va="center")
    axes.set(yticks=range(len(SAVED)), yticklabels=[label for label, *_ in SAVED], xlim=(-8, 66))
    axes.set_xlabel("compute saved on the way to the loss of training from scratch, %")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.barh(0, 0, color=LIGHT, label="the small model for free")
    axes.barh(0, 0, color=BLUE, label="its training counted")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.16), ncols=2, frameon=False)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    save(figure, "saved")


if __name__ == "__main__":
    draw_widths()
    draw_depths()
    draw_loads()
    draw_saved()
