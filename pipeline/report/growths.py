"""The growth certificates of a run, explained."""

from dataclasses import dataclass
from typing import Any

from data_prep.report.numbers import counted
from pipeline.growth.token_rows import over_both
from pipeline.operators import DEPTH, WIDTH, DepthOperator, WidthOperator
from pipeline.report import words
from pipeline.report.figures import GREY, LOOKS, SIZE, Plot, blank, legend_above
from pipeline.report.recorded import RecordedRun
from pipeline.runs.records import reasons_of

_SIZES = (
    ("num_hidden_layers", "layers"),
    ("hidden_size", "hidden size"),
    ("num_attention_heads", "attention heads"),
    ("num_key_value_heads", "key-value heads"),
    ("head_dim", "head dimension"),
    ("intermediate_size", "FFN units"),
    ("vocab_size", "vocabulary"),
    ("max_position_embeddings", "positions"),
)
_MAPS = {
    "residual": "channels of the residual stream",
    "heads": "attention heads",
    "kv_heads": "key-value heads",
    "ffn": "FFN units",
    "head_dim": "channels of a head",
    "vocab": "tokens",
    "positions": "positions",
}


@dataclass(frozen=True)
class ExplainedGrowth:
    """One growth, in words, tables and a figure."""

    heading: str
    source: str
    """Where the source came from, and its digest."""
    sizes: list[tuple[str, str, str, str]]
    """What, before, after, and how many times as much."""
    operators: list[tuple[str, str]]
    """Each operator and option, and what it is."""
    choices: list[str]
    maps: list[str]
    verdict: str
    departures: list[tuple[str, str]]
    """Each cause, and what it means."""
    moments: str
    measured: list[dict[str, str]]
    """One row for each comparison of the two models."""
    meaning: list[str]
    """What was measured, in words."""
    layers: Plot


def size(sizes: dict[str, Any]) -> str:
    """Return a model's sizes in a few words."""
    return f"{counted(sizes['num_hidden_layers'], 'layer')} × {sizes['hidden_size']}".replace(" ", "\N{NO-BREAK SPACE}")


def explain(run: RecordedRun, prefix: str) -> list[ExplainedGrowth]:
    """Return what each certificate of a run says; `prefix` begins the figures' names."""
    return [_explained(certificate, number, f"{prefix}-{number}") for number, certificate in enumerate(run.certificates, 1)]


def _explained(certificate: dict[str, Any], number: int, name: str) -> ExplainedGrowth:
    old, new, growth = certificate["source"], certificate["target"], certificate["growth"]
    return ExplainedGrowth(
        heading=f"Growth {number}: {size(old)} → {size(new)}",
        source="; ".join(
            # Certificates of older versions have no remarks.
            [f"{certificate['source_path']}, weights' digest {certificate['source_digest']}", *certificate.get("remarks", ())]
        ),
        sizes=[
            (label, f"{old[key]:,}", f"{new[key]:,}", "" if old[key] == new[key] else f"×{new[key] / old[key]:.3g}")
            for key, label in _SIZES
        ],
        operators=[
            (f"width: {growth['width']}", _said(WIDTH[growth["width"]])),
            (f"depth: {growth['depth']}", _said(DEPTH[growth["depth"]])),
            *words.options(growth),
        ],
        choices=certificate["choices"],
        maps=_maps(certificate["maps"]),
        verdict=words.VERDICTS[certificate["verdict"]],
        departures=[(one["cause"], one["meaning"]) for one in reasons_of(certificate)],
        moments=_moments(certificate),
        measured=[_measured(seen, where) for seen, where in _comparisons(certificate)],
        meaning=_meaning(certificate),
        layers=_layers(certificate, number, name),
    )


def _maps(maps: dict[str, Any]) -> list[str]:
    lines = []
    for kind, axis_map in maps.items():
        if axis_map["source"] == axis_map["target"]:
            continue
        least, most = axis_map["copies"]
        often = f"each {least} times" if least == most else f"between {least} and {most} times"
        lines.append(f"{_MAPS.get(kind, kind)}: {axis_map['source']:,} → {axis_map['target']:,}, old ones used {often}.")
    return lines


def _comparisons(certificate: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    tokens = "random tokens" if str(certificate["measured"].get("tokens", "")).startswith("random") else "tokens"
    over = over_both(certificate)
    found = [(certificate["measured"], f"apart from training, {tokens}{over}")]
    if certificate["in_training"] is not None:
        found.append((certificate["in_training"], f"as trained, held-out text{over}"))
    return found


def _measured(seen: dict[str, Any], where: str) -> dict[str, str]:
    return {
        "where": where,
        "precision": seen["dtype"],
        "source": f"{seen['source_loss']:.4f}",
        "grown": f"{seen['grown_loss']:.4f}",
        "gap": f"{seen['loss_gap']:+.2g}",
        "logit": f"{seen['max_logit_difference']:.2g}",
    }


def _meaning(certificate: dict[str, Any]) -> list[str]:
    exact, lines = certificate["verdict"] == "exact", []
    measured, trained = certificate["measured"], certificate["in_training"]
    moved = f"In {measured['dtype']} no logit moved by more than {measured['max_logit_difference']:.2g}"
    if exact and certificate["measured_agrees"]:
        lines.append(f"{moved}, where {words.rounding(measured['dtype'])}: the two models compute the same.")
    elif not exact:
        lines.append(f"{moved}; {words.rounding(measured['dtype'])}, so what is more than that is the growth's own doing.")
    if trained is not None:
        gap = trained["loss_gap"]
        effect = (
            "the same loss as its source"
            if abs(gap) < 5e-5
            else f"a loss {abs(gap):.4f} {'higher' if gap > 0 else 'lower'} than its source's"
        )
        lines.append(
            f"In the precision of training, {trained['dtype']}, the grown model begins with {effect} on "
            f"{trained['scored_tokens']:,} "
            f"held-out tokens ({trained['source_loss']:.4f} → {trained['grown_loss']:.4f}); {words.rounding(trained['dtype'])}."
        )
        # Certificates of older versions compare a source in float32.
        rounding = trained.get("rounding")
        if rounding is None and trained["dtype"] != "float32":
            lines.append(f"The source's loss is of float32: rounding to {trained['dtype']} is in the difference.")
        elif trained["dtype"] != "float32":
            lines.append(
                f"Both losses are of {trained['dtype']}: rounding to it alone, without any growth, moves the source's by "
                f"{rounding['loss']:+.4f} and a logit of its by up to {rounding['max_logit_difference']:.2g}."
            )
    if not certificate["measured_agrees"]:
        lines.append(f"{moved}: this contradicts the verdict, by which the growth should have preserved the function.")
    return lines


def _moments(certificate: dict[str, Any]) -> str:
    causes = certificate["moments_departures"]
    if causes is None:
        return "The optimizer's state began anew."
    exactly = f"approximately: {'; '.join(causes)}" if causes else "exactly"
    others = "; ".join(certificate.get("steps_departures") or [])
    steps = f" Steps are not all the source's: {others}." if others else ""
    return f"The optimizer's moments grew with the weights, {exactly}.{steps}"


def _layers(certificate: dict[str, Any], number: int, name: str) -> Plot:
    origins = certificate["layers"]
    kinds = {
        "the source's own place": [],
        "added, writes nothing at first": [],
        "added, writes at once": [],
        "random": [],
    }
    rows = []
    for place, origin in enumerate(origins):
        if origin["source"] is None:
            kind = "random"
        elif not origin["added"]:
            kind = "the source's own place"
        else:
            kind = "added, writes nothing at first" if origin["silent"] else "added, writes at once"
        kinds[kind].append((place, -1 if origin["source"] is None else origin["source"]))
        rows.append({"target_layer": place, "source_layer": origin["source"], "kind": kind})
    layers = certificate["source"]["num_hidden_layers"]
    figure, axes = blank((SIZE[0], min(SIZE[1], 1.5 + 0.13 * layers)))
    for style, (kind, points) in zip(LOOKS, kinds.items(), strict=False):
        if points:
            filled = kind == "the source's own place"
            axes.plot(
                *zip(*points, strict=True),
                linestyle="",
                marker=style.marker,
                markersize=6,
                color=style.color,
                markerfacecolor=style.color if filled else "white",
                markeredgewidth=1.4,
                label=kind,
            )
    step = max(1, layers // 6)
    ticks = list(range(0, layers, step))
    labels = [str(tick) for tick in ticks]
    if kinds["random"]:
        ticks, labels = [-1, *ticks], ["none", *labels]
    axes.set_yticks(ticks, labels)
    axes.set_xticks(range(0, len(origins), max(1, len(origins) // 12)))
    axes.set_ylim(min(ticks) - 0.6, layers - 0.4)
    axes.set_xlim(-0.6, len(origins) - 0.4)
    axes.set_xlabel("layer of the grown model (0 is the lowest)")
    axes.set_ylabel("made of source layer", color=GREY)
    legend_above(figure, axes)
    told = ", ".join(
        f"{row['target_layer']} of {'none' if row['source_layer'] is None else row['source_layer']}" for row in rows
    )
    caption = "Which layer of the source each layer of the grown model is made of."
    return Plot(f"{name}-layers", f"Layers of growth {number}", caption, figure, rows, f"{caption} {told}.")


def _said(operator: WidthOperator | DepthOperator) -> str:
    """What an operator does, and where it comes from."""
    return f"{operator.summary} ({operator.citation}.)"
