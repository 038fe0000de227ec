"""Whether a model's output matrix is its embedding: a fact of the tensors, whatever config.json says of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from pipeline.common.errors import UserError
from pipeline.families import Family
from pipeline.growth.state import Rows, State
from pipeline.growth.streaming import row_chunks


class Output(NamedTuple):
    """A model whose output matrix has been looked at."""

    tied: bool
    state: State
    """What the model computes with, under the names of a tied or an untied model."""
    remarks: list[str]


def settle_output(family: Family, said: bool, state: Mapping[str, Rows], *, complete: bool) -> Output:
    """Return what the tensors in `state` say of the output matrix and its bias; `said` is config.json's tie_word_embeddings.

    A matrix that is not there, or equals the embedding, is tied; one that differs is the model's own, and so is its bias.
    Where config.json says tied this is what transformers 5 does. `complete` says whether the model was saved with its head:
    else one that config.json unties is missing and not tied. Tensors are compared a few rows at a time.
    """
    state, remarks = dict(state), []
    key = f"config.json says tie_word_embeddings: {str(said).lower()}"
    matrix, words = family.output, family.words
    if matrix in state and words not in state and said:
        state[words] = state[matrix]
        remarks.append(f"{words} is not among the weights, and {matrix}, which is tied to it, is taken for both")
    if matrix in state and words in state:
        tied = _equal(state[matrix], state[words])
    else:
        tied = said or (complete and matrix not in state)
    if tied and not said:
        how = f"equals {words}" if matrix in state else "is not among the weights"
        remarks.append(f"{key}, and {matrix} {how}: the output matrix is taken as tied to the embedding")
    if said and not tied:
        remarks.append(f"{key}, and {matrix} differs from {words}: the model is taken with an output matrix of its own")
    for own, shared in family.head_alias.items():
        if own != matrix:
            remarks += _settle_bias(state, own, shared, tied, said)
        if tied:
            state.pop(own, None)
    return Output(tied, state, remarks)


def settle_shared(family: Family, state: Mapping[str, Rows], directory: Path) -> State:
    """Return a state in which tensors that the family shares are there once; raises UserError where the copies differ."""
    state = dict(state)
    for name, shared in family.shared.items():
        copy = state.pop(name, None)
        if copy is not None and not _equal(copy, state.setdefault(shared, copy)):
            raise UserError(
                f"{directory}: tensor {name!r} differs from {shared!r}, which {family.name} shares with it; a "
                "model with embeddings of their own cannot be grown"
            )
    return state


def _settle_bias(state: dict[str, Rows], own: str, shared: str, tied: bool, said: bool) -> list[str]:
    """Have the bias that the output is computed with under the name that a tied or an untied model reads."""
    if own not in state and shared not in state:
        return []
    if own not in state:
        if not tied:
            state[own] = state[shared]
        # transformers 5 unties the bias with the matrix, and earlier versions left it tied.
        return [] if said else [f"{own} is not among the weights, and {shared} is taken in its place"]
    if shared not in state:
        state[shared] = state[own]
        return []
    if tied and not _equal(state[own], state[shared]):
        state[shared] = state[own]
        return [f"{own} differs from {shared}, and is taken, since the output is computed with it"]
    return []


def _equal(one: Rows, other: Rows) -> bool:
    if tuple(one.shape) != tuple(other.shape):
        return False
    for start, rows in row_chunks(one):
        same = other.rows(start, start + len(rows))
        dtype = torch.promote_types(rows.dtype, same.dtype)
        if not torch.equal(rows.to(dtype), same.to(dtype)):
            return False
    return True
