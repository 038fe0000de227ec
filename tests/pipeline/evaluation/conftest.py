"""Tiny models in Hugging Face's own format, with a tokenizer trained here, and a corpus in WikiText's form."""

import json
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.conftest import make_documents

SHARED = Path(__file__).parents[4] / "shared" / "data"
POSITIONS = 32


def write_tokenizer(directory: Path) -> int:
    """Write a byte-level BPE with all the special tokens there are; return its size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<unk>", "<mask>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(make_documents(50), trainer)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", **named).save_pretrained(directory)
    return tokenizer.get_vocab_size()


@pytest.fixture(scope="session")
def causal(tmp_path_factory) -> Path:
    """A GPT-2 whose logits are not flat."""
    directory = tmp_path_factory.mktemp("causal")
    size = write_tokenizer(directory)
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=size,
        n_positions=POSITIONS,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=1,
    )
    GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def masked(tmp_path_factory) -> Path:
    """A BERT likewise."""
    directory = tmp_path_factory.mktemp("masked")
    size = write_tokenizer(directory)
    torch.manual_seed(6)
    config = BertConfig(
        vocab_size=size,
        max_position_embeddings=POSITIONS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.2,
        pad_token_id=4,
    )
    BertForMaskedLM(config).save_pretrained(directory)
    return directory


def wikitext(articles: int) -> str:
    """Text in WikiText's form: lines of words and marks, headings, `<unk>`."""
    draw = random.Random(3)
    lines = [" "]
    for number, text in enumerate(make_documents(articles, seed=4)):
        words = text.removesuffix(".").split()
        words[draw.randrange(len(words))] = "<unk>"
        words[5:5] = ["@-@", "the", ",", "(", "1", "@,@", "000", ")"]
        lines += [f" = Article {number} = ", " ", " " + " ".join(words[:40]) + " . ", f" = = Part {number} = = ", " "]
        lines += [" " + " ".join(words[40:]) + ' \'s " way " . ', " "]
    return "\n".join(lines)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with the files of wikitext2, ptb and lambada."""
    directory = tmp_path_factory.mktemp("data")
    (directory / "wikitext-2").mkdir()
    (directory / "wikitext-2" / "wiki.test.tokens").write_text(wikitext(4))
    (directory / "ptb.test.txt").write_text(" no it was n't <unk> says mr. smith 's aunt \n they paid $ N for N of them \n")
    passages = [{"text": text.removesuffix(".")} for text in make_documents(6, seed=8)]
    (directory / "lambada_test.jsonl").write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    return directory
