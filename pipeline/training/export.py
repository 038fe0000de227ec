"""A checkpoint as a Hugging Face directory, in fp32."""

import shutil
from pathlib import Path

import torch

from data_prep.files import whole_directory
from data_prep.tokenizer import Tokenizer
from pipeline.flops.ledger import Ledger, write_ledger
from pipeline.growth.huggingface_sink import write_huggingface
from pipeline.growth.state import Source


def export(source: Source, directory: Path, tokenizer: Tokenizer, ledger: Ledger) -> None:
    """Write a model, its tokenizer and the FLOPs that it cost into `directory`, which appears whole; one rank's work.

    Raises UserError where the disk is full.
    """
    with whole_directory(directory) as aside:
        write_huggingface(aside, source.config, source.state, torch.float32)
        for path in tokenizer.files:
            shutil.copyfile(path, aside / path.name)
        write_ledger(aside, ledger)
