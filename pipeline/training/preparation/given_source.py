"""The source: where it lies, what it is, and whether it goes with the recipe."""

from pathlib import Path

from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.common.hub import commit_of, find_directory
from pipeline.families import FAMILIES, PAIR_FAMILIES, check_trained, scratch_config
from pipeline.growth.sources import open_source, preview_source
from pipeline.growth.state import Source
from pipeline.recipe import ModelConfig, Recipe
from pipeline.training import distributed


def source_place(recipe: Recipe, commit: str | None = None, *, weights: bool = True) -> Path | None:
    """The directory of the given source; of a name on the hub it is downloaded to, at a commit or as the recipe says."""
    path = recipe.source.path
    if path is None:
        return None
    absent = f"source.path: {path!r} is no directory here"
    return find_directory(path, commit or recipe.source.revision, absent, weights=weights)


def downloaded(recipe: Recipe) -> Path | None:
    """Return the directory of the given source, once a node downloaded and on all of one commit; a collective call."""
    place = distributed.on_first_rank(lambda: source_place(recipe))
    commit = None if place is None else commit_of(place)
    return place if commit is None else distributed.node_by_node(lambda: source_place(recipe, commit))


def given_source(recipe: Recipe, place: Path | None, part: int, parts: int, *, preview: bool) -> Source | None:
    """Return the source in `place`; a `preview` may be a config.json without weights. Raises UserError where it is unfit."""
    source = recipe.source
    if place is None:
        return None
    if not place.is_dir():
        raise UserError(
            f"source.path: {source.path!r} is no directory here; name one with a Hugging Face model, a run directory, a "
            "DeepSpeed checkpoint or a folder of those"
        )
    config = None if source.config is None else Path(source.config)
    if preview:
        given = preview_source(place, config=config, untrusted=source.foreign)
    else:
        given = open_source(place, config=config, untrusted=source.foreign, part=part, parts=parts)
    check_trained(given.family, f"source.path: {source.path}")
    return given


def source_config(recipe: Recipe, given: Source | None, vocab_size: int, eos_id: int) -> PretrainedConfig:
    """The source's configuration: its own, or that of the model that is to be trained first."""
    pairs = recipe.data.pairs is not None
    if given is None:
        return scratch_config(built_model(recipe), vocab_size, eos_id, max(sequence_lengths(recipe)), pairs=pairs)
    _check_pairs(given, pairs)
    return given.config


def _check_pairs(source: Source, pairs: bool) -> None:
    """Raise UserError where the source has no head on sentence pairs and needs one, or has one that would learn nothing."""
    with_pairs, has = PAIR_FAMILIES.get(source.family.name), source.family.pair_logits is not None
    where = f"{source.beside}/config.json: architectures"
    if pairs and with_pairs is None:
        raise UserError(f"data.pairs: {source.family.name} has no head on sentence pairs; leave the key out")
    if pairs and with_pairs is not None and not has:
        raise UserError(
            f"{where}: a {source.family.model_class.__name__} has no head on sentence pairs, which data.pairs needs and "
            f"growth does not add; name {with_pairs.model_class.__name__} there if the weights hold one (published BERTs' do), "
            "or leave data.pairs out"
        )
    if has and not pairs:
        raise UserError(
            f"{where}: a {source.family.model_class.__name__} has a head on sentence pairs, which learns nothing without "
            f"data.pairs; set that, or name {FAMILIES[source.family.name].model_class.__name__} there to leave the head out"
        )


def built_model(recipe: Recipe) -> ModelConfig:
    """The model that is built in a run whose source is not given."""
    assert recipe.source.model is not None, recipe.source
    return recipe.source.model


def sequence_lengths(recipe: Recipe) -> list[int]:
    """The sequence lengths that a run reads."""
    chosen = [stage.sequence_length for stage in recipe.train_stages]
    return [recipe.data.sequence_length, *(length for length in chosen if length is not None)]
