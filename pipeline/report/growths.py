"""What a run's growth certificates say, for a reader who has not read the papers."""

from collections.abc import Mapping
from typing import Any

from data_prep.report.numbers import counted
from data_prep.report.parts import Grid, table
from pipeline.growth.token_rows import over_both
from pipeline.operators import DEPTH, UPCYCLING, WIDTH, DepthOperator, WidthOperator
from pipeline.recipe import GrowthConfig
from pipeline.report import prose
from pipeline.report.figures import GREY, LOOKS, SIZE, Plot, blank, legend_above
from pipeline.report.recorded import RecordedRun
from pipeline.runs.records import CertificateRecord, reasons_of

_SIZES = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden size",
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key-value heads",
    "head_dim": "head dimension",
    "intermediate_size": "FFN units",
    "vocab_size": "vocabulary",
    "max_position_embeddings": "positions",
}
_MAPS = {
    "residual": "channels of the residual stream",
    "heads": "attention heads",
    "kv_heads": "key-value heads",
    "ffn": "FFN units",
    "head_dim": "channels of a head",
    "vocab": "tokens",
}
_LAYERS = ("the source's own place", "added, writes nothing at first", "added, writes at once", "random")


def size(sizes: Mapping[str, Any]) -> str:
    """Return a model's sizes in a few words."""
    return f"{counted(sizes['num_hidden_layers'], 'layer')} × {sizes['hidden_size']}".replace(" ", "\N{NO-BREAK SPACE}")


def explain(run: RecordedRun, prefix: str) -> list[dict[str, Any]]:
    """Return what the page shows of each certificate of a run; `prefix` begins the figures' names."""
    return [_explained(certificate, number, f"{prefix}-{number}") for number, certificate in enumerate(run.certificates, 1)]


def _explained(certificate: CertificateRecord, number: int, name: str) -> dict[str, Any]:
    growth = certificate["growth"]
    operators: dict[str, WidthOperator | DepthOperator] = {"width": WIDTH[growth["width"]], "depth": DEPTH[growth["depth"]]}
    return {
        "heading": f"Growth {number}: {size(certificate['source'])} → {size(certificate['target'])}",
        "certificate": certificate,
        "reasons": reasons_of(certificate),
        "meaning": prose.lines("growth", "meaning", certificate),
        "operators": [
            *((f"{axis}: {growth[axis]}", f"{one.summary} ({one.citation}.)") for axis, one in operators.items()),
            *_options(growth),
        ],
        "maps": [(_MAPS.get(kind, kind), one) for kind, one in certificate["maps"].items() if one["source"] != one["target"]],
        "measured": _measured_table(certificate),
        "sizes": _sizes_table(certificate),
        "layers": _layers_figure(certificate, number, name),
    }


def _options(growth: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each option of a growth that makes a difference, and what it does."""
    found = []
    operators = [WIDTH.get(growth["width"]), DEPTH.get(growth["depth"])]
    for option in [*(each for one in operators if one is not None for each in one.options), *UPCYCLING]:
        # A certificate of an earlier version has none of the newer keys.
        value = growth.get(option.name, option.default)
        if isinstance(option.effect, Mapping):
            effect = option.effect.get(value)
        else:
            effect = option.effect.format(**growth) if value != option.default else None
        if effect:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            found.append((option.name if value is True else f"{option.name}: {shown}", effect))
    if growth["positions"] == "interpolate":
        found.append(("positions: interpolate", "The position table is stretched over the longer one."))
    added = GrowthConfig(added=growth.get("added", {})).added
    return found + [("added", f"{sentence[0].upper()}{sentence[1:]}.") for sentence in added.described]


def _sizes_table(certificate: CertificateRecord) -> Grid:
    old, new = dict(certificate["source"]), dict(certificate["target"])
    rows = []
    for key, label in _SIZES.items():
        before, after = int(str(old[key])), int(str(new[key]))
        rows.append([label, f"{before:,}", f"{after:,}", "" if before == after else f"×{after / before:.3g}"])
    return Grid("Sizes", ["", "source", "grown", ""], rows)


def _measured_table(certificate: CertificateRecord) -> Grid:
    tokens = "random tokens" if str(certificate["measured"].get("tokens", "")).startswith("random") else "tokens"
    compared = [(f"outside training, {tokens}", certificate["measured"])]
    compared += [("as trained, held-out text", seen)] if (seen := certificate["in_training"]) is not None else []
    rows = [
        {
            "compared": where + over_both(certificate),
            "precision": seen["dtype"],
            "source's loss": f"{seen['source_loss']:.4f}",
            "grown model's loss": f"{seen['grown_loss']:.4f}",
            "difference": f"{seen['loss_gap']:+.2g}",
            "largest change of a logit": f"{seen['max_logit_difference']:.2g}",
        }
        for where, seen in compared
    ]
    return table("The grown model beside its source", rows, ["precision"])


def _layers_figure(certificate: CertificateRecord, number: int, name: str) -> Plot:
    rows: list[dict[str, Any]] = []
    for place, origin in enumerate(certificate["layers"]):
        kind = _LAYERS[3] if origin["source"] is None else _LAYERS[0 if not origin["added"] else 1 if origin["silent"] else 2]
        rows.append({"target_layer": place, "source_layer": origin["source"], "kind": kind})
    layers = certificate["source"]["num_hidden_layers"]
    figure, axes = blank((SIZE[0], min(SIZE[1], 1.5 + 0.13 * layers)))
    for style, kind in zip(LOOKS, _LAYERS, strict=False):
        points = [(row["target_layer"], row["source_layer"]) for row in rows if row["kind"] == kind]
        if points:
            x, y = [place for place, _ in points], [-1 if source is None else source for _, source in points]
            fill = style.color if kind == _LAYERS[0] else "white"
            axes.plot(x, y, style.marker, color=style.color, mfc=fill, ms=6, mew=1.4, label=kind)
    ticks = list(range(0, layers, max(1, layers // 6)))
    drawn = any(row["kind"] == _LAYERS[3] for row in rows)
    axes.set_yticks([-1, *ticks] if drawn else ticks, ["none", *map(str, ticks)] if drawn else [str(tick) for tick in ticks])
    axes.set_xticks(range(0, len(rows), max(1, len(rows) // 12)))
    axes.set_ylim((-1 if drawn else 0) - 0.6, layers - 0.4)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("layer of the grown model (0 is the lowest)")
    axes.set_ylabel("made of source layer", color=GREY)
    legend_above(figure, axes)
    caption, sources = (prose.text("captions", kind, *facts) for kind, *facts in (("layers",), ("layer_sources", rows)))
    return Plot(f"{name}-layers", f"Layers of growth {number}", caption, figure, rows, f"{caption} {sources}")
