"""Whether a tokenizer stays what it is beside a model, where AutoTokenizer goes by the model's configuration too."""

import tempfile
from pathlib import Path

from transformers import PretrainedConfig

from data_prep.tokenizers.loading import Tokenizer, difference, load_tokenizer
from pipeline.common.errors import UserError


def check_beside(tokenizer: Tokenizer, config: PretrainedConfig) -> None:
    """Raise UserError where the tokenizer gives other ids once it lies beside the model, as it is exported."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.write(Path(folder))
        try:
            differs = difference(tokenizer, load_tokenizer(Path(folder), tokenizer.split_special_tokens, for_text=False))
        except UserError as error:
            differs = str(error).removeprefix(f"{folder}: ")
    if differs is not None:
        raise UserError(
            f"{tokenizer.files[0]}: transformers' AutoTokenizer gives other ids where this lies beside a {config.model_type} "
            f"model ({differs}); choose a tokenizer of the model's own kind"
        )
