"""A checkpoint as a Hugging Face directory, in fp32, with the model's card."""

from pathlib import Path

import torch

from data_prep.tokenizers.loading import Tokenizer
from pipeline.common.files import whole_directory
from pipeline.common.progress import Meter
from pipeline.flops.ledger import Ledger, write_ledger
from pipeline.growth.generation import write_generation_config
from pipeline.growth.huggingface_sink import write_huggingface
from pipeline.growth.probe import elements
from pipeline.growth.state import Source
from pipeline.growth.tokenizer_length import write_tokenizer_length
from pipeline.report.card import CARD


def export(source: Source, directory: Path, tokenizer: Tokenizer, ledger: Ledger, card: str) -> None:
    """Write a model, its tokenizer, its card and the FLOPs that it cost into `directory`, which appears whole; one rank's work.

    Raises UserError where the disk is full.
    """
    with whole_directory(directory) as partial:
        size = elements(source.state) * torch.float32.itemsize
        with Meter(f"{directory}: writing", size) as meter:
            write_huggingface(partial, source.config, source.state, torch.float32, progress=meter.advance)
        tokenizer.write(partial)
        write_tokenizer_length(partial, source.config)
        write_generation_config(partial, source.config, partial)
        write_ledger(partial, ledger)
        (partial / CARD).write_text(card, encoding="utf-8")
