"""What a growth certificate says, in words for a reader who has not read the papers."""

from typing import Any

VERDICTS = {
    "exact": "preserves the function: by rule the grown model computes what its source computes, before it is trained on",
    "approximate": "approximate: the operator would preserve the function, and cannot at these sizes or in this family",
    "inexact by design": (
        "changes the function on purpose: the operator or an option gives up the source's output for a better start"
    ),
}


def counted(number: int, noun: str) -> str:
    """Return a number of things, a noun that takes an s, in words."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


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
