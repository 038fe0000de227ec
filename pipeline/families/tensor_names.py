"""What the names of a published file's tensors are to a family, whatever training has put around them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.families.base import Family

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
"""What torch.compile, DistributedDataParallel, FSDP, activation checkpointing and Lightning put into names."""

_MODEL = "model."
"""What a module that holds the model as `model` puts before its names."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A published tensor's place in a family."""

    name: str | None
    """Ours; None for what is no part of the language model."""
    head: str | None = None
    """The module of another task's head that it belongs to."""
    wrappers: frozenset[str] = frozenset()
    """What was taken out of its name."""


def place(family: Family, published: str) -> Placed | None:
    """Return where a tensor belongs; None where the family has no such tensor.

    Names of other heads and of buffers belong nowhere in the language model, and are known.
    """
    wrappers = set(_WRAPPERS.findall(published))
    name = _WRAPPERS.sub("", published)
    while (placed := _place(family, name)) is None and name.startswith(_MODEL):
        name = name.removeprefix(_MODEL)
        wrappers.add(_MODEL.removesuffix("."))
    return None if placed is None else Placed(placed.name, placed.head, frozenset(wrappers))


def _place(family: Family, name: str) -> Placed | None:
    name = family.canonical(name)
    if family.buffers.search(name):
        return Placed(None)
    if head := family.other_heads.search(name):
        return Placed(None, head[0])
    return Placed(name) if family.knows(name) else None


def likely(families: Iterable[Family], names: Iterable[str]) -> list[str]:
    """Return which families have tensors of all these names, most of their own kinds among them first; none for no names."""
    names = list(names)
    found = {
        family.name: _kinds_missing(family, names)
        for family in families
        if names and all(place(family, name) for name in names)
    }
    fewest = min(found.values(), default=0)
    return [name for name, missing in found.items() if missing == fewest]


def _kinds_missing(family: Family, names: list[str]) -> int:
    """How many tensors of a family's layers are not there, or there and not its, in the form of it that comes nearest."""
    places = (place(family, name) for name in names)
    placed = {family.kind(one.name) for one in places if one is not None and one.name is not None}
    return min(
        sum(of_layer and name not in placed for name, of_layer in form.items()) + len(placed - form.keys())
        for form in family.forms
    )
