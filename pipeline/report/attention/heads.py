"""Figures of single heads: a layer's maps beside each other, and one map with its tokens."""

from typing import Any

import torch

from pipeline.report import prose
from pipeline.report.attention.canvas import KINDS, LETTERS, TICK, WIDTH, Canvas, attention_scale, letters_in_words
from pipeline.report.attention.compared import GROWN, SOURCE, TRAINED, ComparedHeads
from pipeline.report.attention.origins import HeadOrigin
from pipeline.report.figures import Plot

_ACROSS = 6
"""Heads beside each other: of more, what stands above them would run together."""

_TOKEN = 0.115
"""Inches from one token to the next: a line of text."""

_EDGE = 0.04
"""Inches for the frames below."""


def layer_plot(compared: ComparedHeads, layer: int) -> Plot:
    """Return a layer's heads: the source's above, what was made of them below; a column a target head."""
    origins = {head: compared.origins[layer][head] for head in compared.heads}
    states = [SOURCE, *compared.maps.targets]
    left, right, gap, titled, between = 0.62, 0.52, 0.05, 0.18, 0.16
    across = min(_ACROSS, len(origins))
    side = min(0.85, (WIDTH - left - right) / across - gap)
    key = letters_in_words(origin.kind for origin in origins.values())
    block = len(states) * (side + titled) + between
    canvas = Canvas(-(-len(origins) // across) * block - between + _EDGE)
    drawn = {head: _states(compared, layer, head, origin) for head, origin in origins.items()}
    scale = attention_scale(values for maps in drawn.values() for values in maps.values())
    rows = []
    for number, state in enumerate(states):
        for place, (head, origin) in enumerate(origins.items()):
            down, column = divmod(place, across)
            x, y = left + column * (side + gap), canvas.height - down * block - (number + 1) * (side + titled)
            if column == 0:
                canvas.text((left - 0.06, y + side / 2), state.replace(" ", "\n"), ha="right", va="center")
            canvas.text((x + side / 2, y + side + 0.02), _heading(state, head, origin), ha="center")
            if state in drawn[head]:
                kind = "own" if state == SOURCE else origin.kind
                canvas.heat((x, y), side, drawn[head][state], scale, kind, compared.hidden)
                rows += _rows(compared, drawn[head][state], layer=layer, head=head, kind=origin.kind, model=state)
    tall = len(states) * (side + titled) - titled
    canvas.colour_bar((left + across * (side + gap) + 0.02, canvas.height - titled - tall), tall, scale, "attention")
    return Plot(
        name=f"attention-layer-{layer}",
        title=f"Attention of {compared.layer_name(layer)}",
        caption=prose.text("attention", "layer", key),
        figure=canvas.figure,
        rows=rows,
    )


def close_up(compared: ComparedHeads) -> list[Plot]:
    """Return one new head large enough for its tokens: the one least like its duplicate; none where no head has one."""
    duplicates = [duplicate for duplicate in compared.duplicates() if duplicate.layer in compared.layers]
    if not duplicates:
        return []
    duplicate = min(duplicates, key=lambda duplicate: duplicate.last)
    origin = compared.origins[duplicate.layer][duplicate.head]
    states = _states(compared, duplicate.layer, duplicate.head, origin)
    if {SOURCE, TRAINED} <= states.keys():
        # Where growth copies, the source's map and the one right after growth are the same picture.
        del states[GROWN]
    # Below each other: side by side their tokens would be too small to read on a phone.
    left, bottom, titled, gap, right = 0.72, 0.72, 0.18, 0.1, 0.5
    side = min(WIDTH - left - right, max(1.6, _TOKEN * len(compared.tokens)))
    canvas = Canvas(len(states) * (titled + side + gap) - gap + bottom)
    scale = attention_scale(states.values())
    rows = []
    for number, (state, values) in enumerate(states.items()):
        place = left, canvas.height - number * (titled + side + gap) - titled - side
        canvas.heat(place, side, values, scale, "own" if state == SOURCE else origin.kind, compared.hidden)
        _name_tokens(canvas, compared.tokens, place, side, keys=number == len(states) - 1)
        which = (
            f"layer {origin.layer} head {origin.head}" if state == SOURCE else f"layer {duplicate.layer} head {duplicate.head}"
        )
        canvas.text((left, place[1] + side + 0.04), f"{state}: {which}")
        rows += _rows(compared, values, layer=duplicate.layer, head=duplicate.head, kind=origin.kind, model=state)
    canvas.colour_bar((left + side + 0.06, bottom), side, scale, "attention")
    return [
        Plot(
            name="attention-tokens",
            title=f"Head {duplicate.head} of {compared.layer_name(duplicate.layer)}, token by token",
            caption=prose.text("attention", "tokens", KINDS[origin.kind]),
            figure=canvas.figure,
            rows=rows,
        )
    ]


def _states(compared: ComparedHeads, layer: int, head: int, origin: HeadOrigin) -> dict[str, torch.Tensor]:
    """A target head's map by when, and under `source` that of the head that it was made from."""
    made_from = {} if origin.head is None else {SOURCE: compared.maps.source[origin.layer, origin.head]}
    return made_from | {when: maps[layer, head] for when, maps in compared.maps.targets.items()}


def _heading(state: str, head: int, origin: HeadOrigin) -> str:
    """What stands above a map: the head, and right after growth its letter and the source head that it was made from."""
    if state == SOURCE:
        made_from = f"H{origin.head}" if origin.kind != "next" else f"L{origin.layer} H{origin.head}"
        return "–" if origin.head is None else made_from
    mark = LETTERS[origin.kind] + (f"{origin.head}" if origin.new and origin.head is not None else "")
    return f"H{head} {mark}".rstrip() if state == GROWN else f"H{head}"


def _rows(compared: ComparedHeads, values: torch.Tensor, **what: Any) -> list[dict[str, Any]]:
    tokens = compared.tokens
    return [
        {**what, "query": query, "query_token": tokens[query], "key": key, "key_token": tokens[key], "weight": weight}
        for query, weights in enumerate(values.tolist())
        for key, weight in enumerate(weights)
        if key <= query or not compared.causal
    ]


def _name_tokens(canvas: Canvas, tokens: list[str], place: tuple[float, float], side: float, *, keys: bool) -> None:
    """Write as many tokens as can be read to the left of a map, and, for the keys, below it."""
    (x, y), cell = place, side / len(tokens)
    step = -(-len(tokens) // max(1, int(side / _TOKEN)))
    for number in range(0, len(tokens), step):
        middle, word = (number + 0.5) * cell, tokens[number][:9]
        canvas.text((x - 0.04, y + side - middle), word, TICK, ha="right", va="center")
        if keys:
            canvas.text((x + middle, y - 0.04), word, TICK, rotation=90.0, ha="center", va="top")
