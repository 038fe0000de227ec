"""Copy and pad."""

from pipeline.operators.base import Content, Option, Options, Stream, StreamNorms, Units, WidthOperator
from pipeline.operators.options import NOISE

_SCALED = Option(
    "scaled",
    bool,
    False,
    "zero_pad: new units that write nothing and a residual stream scaled for the norm, exact under RMSNorm.",
    "The residual stream is scaled so that RMSNorm does not see the zeros.",
)


def _content(options: Options, norms: StreamNorms) -> Content:
    return Content(Stream.ZERO, Units.ZERO_OUTPUT) if options["scaled"] else Content(Stream.SMALL, Units.SMALL)


def _check(options: Options) -> str | None:
    if options["scaled"] and options["noise"]:
        return "`scaled` zero_pad is exact and adds no noise; leave one of the two out"
    return None


OPERATOR = WidthOperator(
    name="zero_pad",
    summary="The source's weights fill a corner of each matrix, the rest is zeros or small values.",
    citation="transfer training from smaller language models (copy and pad)",
    content=_content,
    options=(_SCALED, NOISE),
    noisy=True,
    check=_check,
)
