"""The run's text: prepared data, its tokenizer, and whether models and text go together."""

import logging
from collections.abc import Callable
from pathlib import Path

from transformers import PretrainedConfig

from data_prep.manifest import MANIFEST, PreparedData
from data_prep.settings import DataPrepConfig, TokenizerConfig
from data_prep.tokenizers.loading import Tokenizer, difference, find_tokenizer, given_tokenizer
from pipeline.common.config import validate
from pipeline.common.errors import UserError
from pipeline.data.checks import DataChecks
from pipeline.data.objectives import objective_for
from pipeline.families import Family, family_of, sizes_of
from pipeline.growth.new_tokenizer import tokenizer_directory
from pipeline.growth.state import Source
from pipeline.growth.tokenizer_beside import check_beside
from pipeline.recipe import Recipe
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.loop.data_watch import Remembered
from pipeline.training.loop.tasks import encoder_of
from pipeline.training.plan.data_mixes import corpora_read
from pipeline.training.preparation.given_source import built_model, sequence_lengths
from pipeline.training.sequence_parallel import check_heads_divide, check_length_divides

logger = logging.getLogger(__name__)


def known_tokenizer(recipe: Recipe, given: Source | None) -> Tokenizer | None:
    """Return the tokenizer of text that is to be prepared; None where it is trained on that, or comes with shards."""
    config = recipe.data.tokenizer
    if recipe.data.text is None or (config is not None and config.path is None):
        return None
    config = tokenizer_of_text(recipe, given)
    directory = config.directory
    return None if directory is None else given_tokenizer(directory, config.split_special_tokens)


def tokenizer_of_text(recipe: Recipe, given: Source | None) -> TokenizerConfig:
    """The tokenizer that text is prepared with: the recipe's, or the target's own."""
    if recipe.data.tokenizer is not None or given is None:
        assert recipe.data.tokenizer is not None, "validated: a source that is built here has the recipe's tokenizer"
        return recipe.data.tokenizer
    return TokenizerConfig(path=recipe.target.tokenizer or str(given.beside))


def known_vocabulary(recipe: Recipe, tokenizer: Tokenizer | None) -> tuple[int | None, int]:
    """Return the ids of text that is not prepared yet, and that of the end of a document, as far as they are known."""
    if tokenizer is not None:
        return tokenizer.vocab_size, tokenizer.eos_id
    # One that is trained may come to fewer, where the text is short.
    return None if recipe.data.tokenizer is None else recipe.data.tokenizer.vocab_size, 0


def vocabulary_size(recipe: Recipe, given: Source | None) -> tuple[int, int]:
    """Return the ids of text that is not looked at, and that of the end of a document, as far as it is known."""
    known, eos_id = known_vocabulary(recipe, known_tokenizer(recipe, given))
    if known is None:
        known = built_model(recipe).vocab_size if given is None else sizes_of(given.config).vocab_size
    if known is None:
        raise UserError("source.model.vocab_size: not known without the prepared text; name it, or leave --corpus_tokens out")
    return known, eos_id


def find_data(
    recipe: Recipe, directory: RunDirectory, given: Source | None, provide: Callable[[DataPrepConfig], PreparedData | None]
) -> PreparedData | None:
    """Return the data: that which the run was started with, or that which the recipe asks for, text by way of `provide`.

    Text goes through the target's tokenizer where the recipe names none.
    """
    config, recorded = recipe.data, directory.recorded_data()
    data: PreparedData | None
    if recorded is not None and (Path(recorded["prepared"]) / MANIFEST).exists():
        data = PreparedData(Path(recorded["prepared"]))
    elif config.shards is not None:
        data = PreparedData(Path(config.shards))
    else:
        tokenizer = tokenizer_of_text(recipe, given)
        request = {
            "output_dir": config.output_dir,
            "corpora": [] if config.text is None else [config.text.model_dump()],
            "tokenizer": tokenizer.model_dump(),
            **({} if config.pairs is None else {"sequences": "sentence"}),
        }
        data = provide(validate(DataPrepConfig, request, "data"))
    if recorded is not None and data is not None and data.manifest.fingerprint != recorded["fingerprint"]:
        raise UserError(
            f"{data.directory}: these are not the shards that the run was started with ({recorded['prepared']}); put those "
            "back, or name another run_dir"
        )
    return data


def check_data(
    recipe: Recipe, data: PreparedData, remembered: Remembered, part: int, parts: int
) -> tuple[PreparedData, DataChecks]:
    """Return the data and what is left to be compared of it, after this process's share of a first look.

    Raises UserError naming what is not as it was prepared.
    """
    checks = DataChecks(data, corpora_read(recipe, data), part, parts)
    for remark in checks.remarks:
        logger.info(remark)
    checks.at_start(remembered.files, (recipe.seed, remembered.step))
    return data, checks


def check_fit(recipe: Recipe, configs: dict[int, PretrainedConfig], vocabulary: int | None, tokenizer: str) -> None:
    """Raise UserError where a model lacks ids, if known, or positions that the text needs; `tokenizer` has given the ids."""
    # A source whose tokenizer gives way reads none of the text.
    reads = sizes_of(configs[0 if recipe.target.tokenizer is None else 1])
    if vocabulary is not None and vocabulary > reads.vocab_size:
        raise UserError(
            f"{tokenizer}: the tokenizer has ids up to {vocabulary - 1}, and the model's vocab_size is "
            f"{reads.vocab_size}; prepare the text with the model's own tokenizer"
        )
    read = {0: [("data.", recipe.data.sequence_length)]}
    for phase in recipe.phases:
        here = read.setdefault(phase.number, [])
        here += [(f"stages.{stage.name}.", stage.sequence_length) for stage in phase.stages if stage.sequence_length]
    for number, lengths in read.items():
        sizes = sizes_of(configs[number])
        usable = family_of(configs[number]).usable_positions(sizes)
        for where, length in lengths:
            if usable is not None and length > usable:
                raise UserError(
                    f"{where}sequence_length: {length} is beyond the model's {usable} positions "
                    f"(max_position_embeddings is {sizes.max_position_embeddings}); name at most {usable}, or raise "
                    f"{'source.model' if number == 0 else 'target'}.max_position_embeddings"
                )


def check_sharing(recipe: Recipe, configs: dict[int, PretrainedConfig], ranks: int) -> None:
    """Raise UserError where heads or positions do not divide over the ranks that share a sequence."""
    for config in configs.values():
        check_heads_divide(config, ranks)
    check_length_divides(recipe.data.sequence_length, ranks, "data.")
    for stage in recipe.train_stages:
        if stage.sequence_length is not None:
            check_length_divides(stage.sequence_length, ranks, f"stages.{stage.name}.")


def check_tokenizer(recipe: Recipe, given: Source | None, tokenizer: Tokenizer, source: PretrainedConfig) -> None:
    """Raise UserError where the text's tokenizer gives other ids than the source's, or lacks what model or tasks need."""
    named = None if recipe.target.tokenizer is None else tokenizer_directory(recipe.target.tokenizer)
    if given is not None:
        check_source(given, tokenizer, named)
    check_beside(tokenizer, source)
    for length in sequence_lengths(recipe):
        objective_for(family_of(source).objective, tokenizer, length)
    encoder_of(recipe, tokenizer, source)


def warn_of_training(recipe: Recipe, given: Source | None) -> None:
    """Warn where a tokenizer is to be trained beside a source that has one: a run is refused unless both give the same ids."""
    config = recipe.data.tokenizer
    if given is None or config is None or config.path is not None or recipe.target.tokenizer is not None:
        return
    own = find_tokenizer(given.beside)
    if own is not None:
        logger.warning(
            "data.tokenizer: a tokenizer will be trained on the text, and the source has one, %s; the run is refused after the "
            "text is prepared unless both give the same ids; leave data.tokenizer out to use the source's",
            own.files[0],
        )


def check_training(config: TokenizerConfig, family: Family) -> None:
    """Raise UserError where a tokenizer is to be trained that AutoTokenizer would read otherwise beside the model."""
    if config.path is not None:
        return
    beside = f"beside a {family.name} model transformers' AutoTokenizer"
    if config.algorithm not in family.tokenizers:
        raise UserError(
            f"data.tokenizer.algorithm: {beside} makes another tokenizer of a {config.algorithm}; choose "
            f"{' or '.join(family.tokenizers)}, or name a tokenizer by data.tokenizer.path"
        )
    special = family.special_tokens_of if config.algorithm == "byte_level_bpe" else ()
    if special and config.family not in special:
        raise UserError(
            f"data.tokenizer.family: {beside} makes a {special[0]} tokenizer of every file; set "
            f"data.tokenizer.family={special[0]}, or name a tokenizer by data.tokenizer.path"
        )


def check_source(source: Source, tokenizer: Tokenizer, named: Path | None = None) -> None:
    """Raise UserError where the model's tokenizer gives other ids than the one text is prepared with.

    The model's is that in the directory `named` where the target has a new one, else the source's.
    """
    own = find_tokenizer(named or source.beside, tokenizer.split_special_tokens)
    differs = None if own is None else difference(own, tokenizer)
    if own is None or differs is None:
        return
    if named is not None:
        raise UserError(
            f"{tokenizer.files[0]}: the text's tokenizer gives other ids than target.tokenizer, {own.files[0]} ({differs}); "
            "prepare the text with the target's"
        )
    raise UserError(
        f"{own.files[0]}: gives other ids than {tokenizer.files[0]}, the text's tokenizer ({differs}); prepare the text "
        "with the model's own tokenizer, as a recipe without data.tokenizer does, or name the text's as target.tokenizer to "
        "change the model's"
    )
