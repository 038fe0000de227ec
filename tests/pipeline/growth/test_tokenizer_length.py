"""What transformers' AutoTokenizer makes of an exported directory, before and after its length is given."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from pipeline.growth.tokenizer_beside import write_tokenizer_length
from tests.pipeline.growth.models import small_model

TEXT = "ab [MASK] Ab\n b [SEP] a"
GIVEN = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "mask_token": "[MASK]"}


def beside(directory, family, given):
    """Write a configuration and the tokenizer's files as the family spreads them; return the configuration."""
    config = small_model(family).config
    config.save_pretrained(directory)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b"]
    if family == "bert":
        (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    elif given is None:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {piece: number for number, piece in enumerate([*letters, "ab", "<|endoftext|>"])}
        (directory / "vocab.json").write_text(json.dumps(vocabulary))
        (directory / "merges.txt").write_text("#version: 0.2\na b\n")
    else:
        tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(directory / "tokenizer.json"))
    if given is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(given))
    return config


@pytest.mark.parametrize(
    ("family", "given"),
    [("bert", None), ("gpt2", None), ("roberta", None), ("roberta", GIVEN), ("gpt2", GIVEN), ("llama", GIVEN)],
)
def test_a_tokenizer_reports_the_models_positions_and_gives_the_same_ids(tmp_path, family, given):
    config = beside(tmp_path, family, given)
    before = AutoTokenizer.from_pretrained(tmp_path)
    write_tokenizer_length(tmp_path, config)
    after = AutoTokenizer.from_pretrained(tmp_path)
    # RoBERTa's first two positions belong to padding.
    assert after.model_max_length == config.max_position_embeddings - (2 if family == "roberta" else 0)
    assert type(after) is type(before)
    assert after(TEXT, TEXT) == before(TEXT, TEXT)
    assert after.special_tokens_map == before.special_tokens_map


@pytest.mark.parametrize(("said", "source", "expected"), [(7, None, 7), (7, 7, 64), (8, 7, 8), (int(1e30), None, 64)])
def test_what_the_file_says_stays_unless_it_was_the_sources(tmp_path, said, source, expected):
    config = beside(tmp_path, "gpt2", GIVEN | {"model_max_length": said})
    config.n_positions = 64
    smaller = None
    if source is not None:
        smaller = small_model("gpt2").config
        smaller.n_positions = source
    write_tokenizer_length(tmp_path, config, smaller)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == expected


def test_where_transformers_files_are_not_there_nothing_is_written(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"")
    write_tokenizer_length(tmp_path, small_model("llama").config)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]
