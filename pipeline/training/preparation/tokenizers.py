"""Whether a run's tokenizer is the one that its models go with."""

from pathlib import Path

from data_prep.settings import TokenizerConfig
from data_prep.tokenizers.loading import Tokenizer, difference, find_tokenizer
from pipeline.common.errors import UserError
from pipeline.families import Family
from pipeline.growth.state import Source


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
        "with the model's own tokenizer, or name the text's as target.tokenizer to change the model's"
    )
