"""Whether a run's tokenizer is the one that its models go with."""

import tempfile
from pathlib import Path

from transformers import PretrainedConfig

from data_prep.errors import UserError
from data_prep.settings import TokenizerConfig
from data_prep.tokenizer import Tokenizer, difference, find_tokenizer, load_tokenizer
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


def check_source(source: Source, tokenizer: Tokenizer) -> None:
    """Raise UserError where the source comes with a tokenizer that gives other ids than the one text is prepared with."""
    own = find_tokenizer(source.beside, tokenizer.split_special_tokens)
    differs = None if own is None else difference(own, tokenizer)
    if differs is not None:
        raise UserError(
            f"{own.files[0]}: gives other ids than {tokenizer.files[0]}, the text's tokenizer ({differs}); prepare the text "
            "with the model's own tokenizer"
        )


def check_beside(tokenizer: Tokenizer, config: PretrainedConfig) -> None:
    """Raise UserError where the tokenizer gives other ids once it lies beside the model, as it is exported."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.write(Path(folder))
        try:
            differs = difference(tokenizer, load_tokenizer(Path(folder), tokenizer.split_special_tokens))
        except UserError as error:
            differs = str(error).removeprefix(f"{folder}: ")
    if differs is not None:
        raise UserError(
            f"{tokenizer.files[0]}: transformers' AutoTokenizer gives other ids where this lies beside a {config.model_type} "
            f"model ({differs}); choose a tokenizer of the model's own kind"
        )
