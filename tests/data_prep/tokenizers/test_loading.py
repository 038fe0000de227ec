import re
import shutil
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_prep.settings import TokenizerConfig
from data_prep.tokenizers.loading import difference, load_tokenizer, tokenizer_digest
from data_prep.tokenizers.training import train_tokenizer
from pipeline.common.errors import UserError
from tests.data_prep.prose import made_up_texts

GIVEN = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"
TEXTS = [*made_up_texts(20), "", " leading  and  double ", "line\n\nline", "😀 日本語"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train_tokenizer(made_up_texts(200), TokenizerConfig(vocab_size=500), folder)
    return folder


@pytest.mark.skipif(not GIVEN.is_dir(), reason="GPT-2's and BERT's vocabularies are not here")
@pytest.mark.parametrize(
    ("name", "vocab_size", "eos", "sep", "cls", "mask"),
    [("gpt2", 50257, 50256, 50256, None, None), ("bert-base-uncased", 30522, 102, 102, 101, 103)],
)
def test_known_vocabularies_give_the_ids_of_transformers(name, vocab_size, eos, sep, cls, mask):
    tokenizer = load_tokenizer(GIVEN / name)
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.sep_id) == (vocab_size, eos, sep)
    assert (tokenizer.cls_id, tokenizer.mask_id) in ((cls, mask), (eos, None))
    kind = "gpt2" if name == "gpt2" else "bert"
    theirs = AutoTokenizer.from_pretrained(GIVEN / name, tokenizer_type=kind)
    assert tokenizer.encode_batch(TEXTS) == theirs(TEXTS, add_special_tokens=False)["input_ids"]


def test_the_vocabulary_ends_behind_the_largest_id_added_tokens_included(tmp_path):
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[SEP]": 1, "a": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", sep_token="[SEP]")
    made.add_tokens(["added", "another"])
    made.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == len(made) == 5
    assert tokenizer.encode_batch(["a another"]) == [[2, 4]]


def test_an_id_beyond_all_vocabularies_is_refused_before_lists_of_that_length_are_made(tmp_path):
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[SEP]": 1, "far": 2}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", sep_token="[SEP]").save_pretrained(tmp_path)
    # Transformers makes such lists where it makes a tokenizer by itself: the file is edited.
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"far": 2', f'"far": {1 << 27}'), encoding="utf-8")
    with pytest.raises(UserError, match="largest id is 134217728, and no model has more than"):
        load_tokenizer(tmp_path)


def test_a_sentencepiece_model_alone_is_read_by_sentencepiece_and_beside_hugging_face_files_by_autotokenizer(trained, tmp_path):
    shutil.copy(trained / "tokenizer.model", tmp_path)
    bare, whole = load_tokenizer(tmp_path), load_tokenizer(trained)
    assert (bare.kind, whole.kind) == ("sentencepiece", "PreTrainedTokenizerFast")
    reader = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert bare.encode_batch(TEXTS) == reader.encode(TEXTS)
    assert whole.encode_batch(TEXTS) == AutoTokenizer.from_pretrained(trained)(TEXTS, add_special_tokens=False)["input_ids"]
    assert {path.name for path in bare.files} == {"tokenizer.model"}
    assert {path.name for path in whole.files} == {path.name for path in trained.iterdir()}
    assert bare.vocab_size == whole.vocab_size == 500
    # No class of GPT-2's reads such a file, whatever AutoTokenizer says there.
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert load_tokenizer(tmp_path).kind == "sentencepiece"
    with pytest.raises(UserError, match="a bare sentencepiece model, and what is asked for needs a tokenizer"):
        _ = bare.hugging_face
    with pytest.raises(UserError, match="sentencepiece reads a special token that a text spells as text, always"):
        load_tokenizer(tmp_path, split_special_tokens=False)


def test_the_digest_differs_between_tokenizers(trained, tmp_path):
    train_tokenizer(made_up_texts(200, seed=1), TokenizerConfig(vocab_size=500), tmp_path)
    assert tokenizer_digest(load_tokenizer(trained)) == tokenizer_digest(load_tokenizer(trained))
    assert tokenizer_digest(load_tokenizer(trained)) != tokenizer_digest(load_tokenizer(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("readme.txt", b"", "no tokenizer here; put one of these there: tokenizer.json; "),
        ("tokenizer.model", b"no model", "tokenizer.model: not a sentencepiece model"),
        ("tokenizer.json", b"{}", "the tokenizer does not load"),
    ],
)
def test_what_is_no_tokenizer_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_a_tokenizer_that_cannot_end_a_document_is_refused(tmp_path):
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no end-of-document token \(eos or sep\)"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_with_dropout_is_refused(tmp_path):
    backend = Tokenizer(models.BPE({"<end>": 0, "a": 1}, [], dropout=1e-4))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has BPE dropout \(0.0001\), which gives a text other ids each time"):
        load_tokenizer(tmp_path)


def test_a_difference_between_two_tokenizers_is_given_by_text_and_place(trained, tmp_path):
    one = load_tokenizer(trained)
    assert difference(one, load_tokenizer(trained)) is None
    train_tokenizer(made_up_texts(200, seed=1), TokenizerConfig(vocab_size=500), tmp_path)
    assert re.fullmatch(
        r"the text '.*'(, shortened here)? is \d+ tokens, \[.*\] and \d+ tokens, \[.*\], from token \d+",
        difference(one, load_tokenizer(tmp_path)),
    )


_CHANGES = {
    "lower case": normalizers.Lowercase(),
    "accents": normalizers.NFC(),
    "line ends": normalizers.Replace("\r\n", "\n"),
    "digits": normalizers.Replace(Regex(r"\d"), "0"),
}


@pytest.mark.parametrize("kind", [*_CHANGES, "front", "special"])
def test_tokenizers_that_differ_in_one_thing_alone_differ(tmp_path, kind):
    def made(name: str, changed: bool) -> Path:
        pieces = ["</s>", "[MASK]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        backend = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=changed and kind == "front")
        if changed and kind in _CHANGES:
            backend.normalizer = _CHANGES[kind]
        named = {"eos_token": "</s>"} | ({} if changed and kind == "special" else {"mask_token": "[MASK]"})
        PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(tmp_path / name)
        return tmp_path / name

    assert difference(load_tokenizer(made("one", False)), load_tokenizer(made("other", True))) is not None
