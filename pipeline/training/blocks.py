"""A model's parameters in blocks, each of which learns or stands still as one."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data_prep.errors import UserError
from pipeline.families import Section
from pipeline.families.graph import Model
from pipeline.families.tensors import Tensor
from pipeline.recipe import TrainStage

HEAD = "head"
EMBEDDINGS = "embeddings"
ADDED = "added"
NEW_TOKENS = "new_tokens"


@dataclass(frozen=True, slots=True)
class Block:
    """The embeddings, the head (with a tied embedding), or consecutive layers; or rows of new tokens, of the first two."""

    name: str
    layers: range = range(0)

    @classmethod
    def of_layers(cls, first: int, stop: int) -> "Block":
        """The layers [first, stop)."""
        return cls(f"layers.{first}-{stop - 1}", range(first, stop))

    def learns(self, section: Section) -> bool:
        """Whether a section lets this block learn."""
        if self.name == EMBEDDINGS:
            return section.embeddings
        if self.name == NEW_TOKENS:
            return section.new_tokens
        return section.head if self.name == HEAD else section.layers.issuperset(self.layers)


def naming_added(stage: TrainStage, added: Sequence[int]) -> TrainStage:
    """Return the stage with the layers that its model's growth added in the place of the selector `added`.

    Raises UserError where the stage selects them and there are none.
    """

    def named(selectors: Sequence[str], where: str) -> list[str]:
        if ADDED in selectors and not added:
            raise UserError(f"{where}: `added` where the model's growth adds no layers; name others")
        return [one for each in selectors for one in ([f"layers.{layer}" for layer in added] if each == ADDED else [each])]

    where = f"stages.{stage.name}"
    groups = [
        group.model_copy(update={"parameters": named(group.parameters, f"{where}.groups.{number}")})
        for number, group in enumerate(stage.groups)
    ]
    trainable = None if stage.trainable is None else named(stage.trainable, f"{where}.trainable")
    return stage.model_copy(update={"groups": groups, "trainable": trainable})


def selects(stage: TrainStage, selector: str) -> bool:
    """Whether a stage trains, or rates, parameters by a selector."""
    return any(selector in each for each in (stage.trainable or (), *(group.parameters for group in stage.groups)))


def section_of(selectors: Sequence[str], layers: int, where: str) -> Section:
    """Return the section that lets the selected parameters of a whole model learn.

    Raises UserError, which begins with `where`, for a layer that the model does not have.
    """
    chosen: set[int] = set()
    for selector in selectors:
        kind, _, numbers = selector.partition(".")
        if kind != "layers":
            continue
        first, _, last = numbers.partition("-")
        begin = int(first or 0)
        stop = int(last or first) + 1 if first else layers
        if not begin < stop <= layers:
            raise UserError(f"{where}: {selector!r} where the model has layers 0 to {layers - 1}; name some of those")
        chosen |= set(range(begin, stop))
    named = {EMBEDDINGS, HEAD, NEW_TOKENS}.intersection(selectors)
    return Section(
        layers, frozenset(chosen), embeddings=EMBEDDINGS in named, head=HEAD in named, new_tokens=NEW_TOKENS in named
    )


def cut(layers: int, stages: Sequence[TrainStage]) -> list[Block]:
    """Return the fewest blocks of which all is made up that any of the stages trains, or rates by itself.

    Raises UserError naming the stage's key where sub-models do not divide the layers, or groups overlap or have no effect.
    """
    cuts = {0, layers}
    for stage in stages:
        where = f"stages.{stage.name}"
        if stage.submodel_layers is not None:
            if layers % stage.submodel_layers:
                raise UserError(
                    f"{where}.submodel_layers: {stage.submodel_layers} does not divide the model's {layers} layers; choose a "
                    "divisor"
                )
            cuts |= set(range(0, layers, stage.submodel_layers))
        sections = [section_of(group.parameters, layers, f"{where}.groups.{n}") for n, group in enumerate(stage.groups)]
        for one, other in itertools.combinations(sections, 2):
            if _meet(one, other):
                raise UserError(f"{where}.groups: two of them claim the same parameters; name each once")
        learning = _learning(stage, layers)
        for number, section in enumerate(sections):
            # Where all of a matrix learns, its new rows do.
            rows = section.new_tokens and (learning.embeddings or learning.head)
            if not (rows or _meet(section, learning)):
                raise UserError(f"{where}.groups.{number}: the stage trains none of these parameters; leave the group out")
            if (section.embeddings or section.new_tokens) and stage.submodel_layers is not None:
                raise UserError(f"{where}.groups.{number}: embeddings stand still beside submodel_layers; leave them out")
        for section in (*sections, learning):
            cuts |= {layer for layer in range(1, layers) if (layer in section.layers) != (layer - 1 in section.layers)}
    tokens = [Block(NEW_TOKENS)] if any(selects(stage, NEW_TOKENS) for stage in stages) else []
    return [Block(EMBEDDINGS), *itertools.starmap(Block.of_layers, itertools.pairwise(sorted(cuts))), Block(HEAD), *tokens]


def _meet(one: Section, other: Section) -> bool:
    """Whether something learns in both."""
    alike = (one.head and other.head, one.embeddings and other.embeddings, one.new_tokens and other.new_tokens)
    return bool(one.layers & other.layers) or any(alike)


def _learning(stage: TrainStage, layers: int) -> Section:
    """All that learns in any step of a stage."""
    if stage.trainable is not None:
        return section_of(stage.trainable, layers, f"stages.{stage.name}.trainable")
    return replace(Section.whole(layers), embeddings=stage.submodel_layers is None)


def check_learns(graph: Model, stage: TrainStage, *, new_tokens: bool = False) -> None:
    """Raise UserError where nothing of what a stage trains, or rates by itself, is there, for stages that `cut` takes.

    `new_tokens` says whether the model's growth added any.
    """
    where, layers = f"stages.{stage.name}", len(graph.layers)
    if selects(stage, NEW_TOKENS) and not new_tokens:
        raise UserError(
            f"{where}: `new_tokens` where the model's growth adds no rows to its vocabulary; name target.tokenizer or a larger "
            "target.vocab_size, or leave it out"
        )
    learnt = section_of(stage.trainable or (), layers, where)
    tables = {tensor.block for tensor in token_tables(graph)}
    if learnt.new_tokens and all(Block(table).learns(learnt) for table in tables):
        whole = " and ".join(sorted(tables))
        raise UserError(f"{where}.trainable: `new_tokens` are rows of what learns as a whole with {whole}; leave it out")
    there = {tensor.block for tensor in graph.tensors().values()}
    if EMBEDDINGS in there:
        return
    tied = "this model's only embedding is tied to the head and learns with it; name head"
    learning = _learning(stage, layers)
    if not (learning.layers or learning.head or learning.new_tokens):
        raise UserError(f"{where}.trainable: {tied}")
    for number, group in enumerate(stage.groups):
        section = section_of(group.parameters, layers, f"{where}.groups.{number}")
        if not (section.new_tokens or _meet(replace(section, embeddings=False), learning)):
            raise UserError(f"{where}.groups.{number}: {tied}, or leave the group out")


def token_tables(graph: Model) -> list[Tensor]:
    """Return the matrices with a row for each token: the embedding, and an output matrix that is not tied to it."""
    return [tensor for tensor in graph.tensors().values() if tensor.axes[0].ports == {"vocab"} and len(tensor.axes) > 1]


def blocks_of_parameters(graph: Model, blocks: Sequence[Block]) -> dict[str, Block]:
    """Return every parameter's name -> its block, in the graph's order."""
    of_name = {block.name: block for block in blocks}
    of_layer = {layer: block for block in blocks for layer in block.layers}
    return {
        name: of_name[tensor.block] if tensor.layer is None else of_layer[tensor.layer]
        for name, tensor in graph.tensors().items()
    }
