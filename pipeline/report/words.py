"""What a growth certificate says, in words for a reader who has not read the papers."""

import re
from typing import Any

VERDICTS = {
    "exact": "preserves the function: by rule the grown model computes what its source computes, before it is trained on",
    "approximate": "approximate: the operator would preserve the function, and cannot at these sizes or in this family",
    "inexact by design": (
        "changes the function on purpose: the operator or an option gives up the source's output for a better start"
    ),
}

WIDTH = {
    "fpi": (
        "Function-preserving initialization (bert2BERT): new channels, heads and units are copies of old ones, and "
        "whatever reads copies divides by their number."
    ),
    "aki": (
        "Advanced knowledge initialization (bert2BERT): as fpi, but new rows are taken from the source's next layer, "
        "which changes the function and breaks the symmetry of copies."
    ),
    "nai": "Neighbour attention initialization (NAI): whole heads and their channels are copied from neighbouring heads.",
    "direct_copy": "DirectCopy (bert2BERT's baseline): the source's weights fill a corner of each matrix, the rest is random.",
    "zero_pad": "Transfer training: the source's weights fill a corner of each matrix, the rest is zeros or small values.",
    "average_pad": (
        "LEMON: whole copies of the channels as often as they fit, the rest at their mean, which LayerNorm does not see."
    ),
    "sqrt_count": (
        "Copies whose size is divided by the square root of their number, so that RMSNorm finds the same mean square."
    ),
    "hypercloning": "HyperCloning: the whole source side by side, as often as the target is a multiple of it.",
    "exact_aki": (
        "Exact at any ratio under the norms of this family: new channels hold what the norm does not see; new heads "
        "and units read as the next layer's and write nothing at first."
    ),
}

DEPTH = {
    "stack": "The whole stack of layers again on top, then its upper part (StackBERT, bert2BERT algorithm 1).",
    "random": "New top layers start at random (DirectCopy).",
    "last_layer": "The last layer again and again, writing nothing to the residual stream at first (NAI algorithm 1).",
    "interleave": "A copy right after each layer, writing nothing to the residual stream at first (LEMON).",
    "list": "The layers that the recipe lists, in its order (G_stack, SOLAR).",
}

_DEPARTURES = (
    (
        r"counts .* under one (LayerNorm|RMSNorm)",
        "Some channels were copied more often than others, and \\1 takes its statistics over all copies alike, so that "
        "it no longer "
        "finds the source's. A hidden size that is a whole multiple of the source's, or width: auto, avoids this.",
    ),
    (
        r"new channels of the residual stream hold .*, which (LayerNorm|RMSNorm) takes in",
        "New channels carry values of their own, and \\1 counts them into its statistics, which shifts every layer "
        "that follows.",
    ),
    (
        r"in new channels of the residual stream shift what (LayerNorm|RMSNorm) takes",
        "What new channels hold is not what this family's norm ignores, so that \\1 finds other statistics than in the source.",
    ),
    (
        r"that are heard at once",
        "New heads or units write to the residual stream from the first step on, though they know nothing yet.",
    ),
    (
        r"come from the next layer",
        "Part of each layer was replaced by knowledge of the layer above: a worse start, and by the paper faster learning.",
    ),
    (r"noise of .* lies on the new rows", "New weights were shaken a little, so that copies do not stay equal for ever."),
    (
        r"NAI eq\. 14's factor",
        "The paper's factor for queries and keys makes attention sharper, because scores are divided by the square root of the "
        "head's dimension and not of the hidden size.",
    ),
    (
        r"positions are stretched",
        "Each position's embedding was moved to make room for more positions, so that old positions mean others.",
    ),
    (
        r"an added layer normalizes again",
        "In a post-LN model even a layer that adds nothing normalizes its input once more, and that changes it.",
    ),
    (r"reordered or left out", "The source's layers do not stand in their old order, or not all of them are there."),
    (r"added layers are random", "New layers compute something at random, and all later layers get their output."),
    (r"added layers repeat", "Layers are gone through a second time, and the second pass changes what the first one made."),
)


def counted(number: int, noun: str) -> str:
    """Return a number of things, a noun that takes an s, in words."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def departure(cause: str) -> str:
    """Return what a departure means, empty for one that is not known here."""
    for pattern, meaning in _DEPARTURES:
        match = re.search(pattern, cause)
        if match:
            return match.expand(meaning)
    return ""


def options(growth: dict[str, Any]) -> list[tuple[str, str]]:
    """Return each option of a growth that makes a difference, and what it does."""
    found = []
    if growth["width"] in ("fpi", "aki"):
        how = {"balanced": "Copies are dealt out in turn.", "random": "Copies are drawn at random."}
        found.append((f"map: {growth['map']}", how[growth["map"]]))
    if growth["width"] == "nai":
        how = {"block": "The last heads in order are copied.", "last": "The last head is copied again and again."}
        found.append((f"neighbours: {growth['neighbours']}", how[growth["neighbours"]]))
    if growth["paper_factor"]:
        found.append(("paper_factor", "Queries and keys are multiplied by the factor of NAI's equation 14."))
    if growth["scaled"]:
        found.append(("scaled", "The residual stream is scaled so that RMSNorm does not see the zeros."))
    if growth["symmetry"] != "none":
        how = {
            "paired": "Twins get opposite noise on what reads them, which cancels out, so that they learn different things.",
            "split": "Twins share their output unevenly, so that they learn different things.",
        }
        found.append((f"symmetry: {growth['symmetry']}", how[growth["symmetry"]]))
    if growth["noise"]:
        found.append(
            (f"noise: {growth['noise']:g}", "The size of the noise or of the small values, as a share of a tensor's deviation.")
        )
    if growth["norm_statistics"] == "weighted":
        steps = growth["norm_anneal_steps"]
        weighted = f"Norms weigh each channel by 1 over its copies, and turn to stock norms over the first {steps} steps."
        found.append(("norm_statistics: weighted", weighted))
    if growth["positions"] == "interpolate":
        found.append(("positions: interpolate", "The position table is stretched over the longer one."))
    return found


def rounding(dtype: str) -> str:
    """Return by how much rounding moves a logit in a dtype, in words."""
    return {
        "float64": "rounding alone moves a logit by about 1e\N{NON-BREAKING HYPHEN}14",
        "float32": "rounding alone moves a logit by about 1e\N{NON-BREAKING HYPHEN}5",
        "bfloat16": "rounding alone moves a logit by some hundredths up to some tenths",
        "float16": "rounding alone moves a logit by some thousandths up to some hundredths",
    }.get(dtype, "rounding alone moves logits a little")
