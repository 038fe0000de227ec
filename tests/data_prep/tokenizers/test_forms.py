"""What transformers' AutoTokenizer makes of a directory is what shards hold, whatever version left it."""

import itertools
import json

import pytest
from transformers import AutoTokenizer

from data_prep.manifest import HELDOUT, TRAIN
from data_prep.prepare import prepare
from data_prep.shards import Shard
from data_prep.tokenizers.loading import difference, given_tokenizer, load_tokenizer
from pipeline.common.errors import UserError
from tests.data_prep.preparing import preparation, write_jsonl
from tests.data_prep.tokenizers.forms import CASED, FORMS, GPT2, LLAMA, TEXTS, config, described, tokenizer_config, write

NAMES = ("eos", "sep", "cls", "mask", "bos")


def theirs(directory, form, texts, split=True):
    """AutoTokenizer's, by its own call."""
    named = {} if form.type is None else {"tokenizer_type": form.type}
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, **named)
    return tokenizer, tokenizer(texts, add_special_tokens=False, split_special_tokens=split)["input_ids"]


@pytest.mark.parametrize("name", FORMS)
def test_ids_are_those_of_autotokenizer(tmp_path, name):
    form = FORMS[name]
    directory = form.write(tmp_path / "given")
    reference, expected = theirs(directory, form, TEXTS)
    # The reference itself cuts nothing: what was saved in a file would hide in the comparison.
    assert len(expected[-1]) > 400
    tokenizer = load_tokenizer(directory)
    assert tokenizer.encode_batch(TEXTS) == expected
    end = reference.eos_token_id if reference.eos_token_id is not None else reference.sep_token_id
    end = reference.convert_tokens_to_ids("<|endoftext|>") if end is None else end
    assert tokenizer.eos_id == end
    ids = {key: getattr(reference, f"{key}_token_id") for key in NAMES}
    assert (tokenizer.cls_id, tokenizer.mask_id, tokenizer.bos_id) == (ids["cls"], ids["mask"], ids["bos"])
    assert tokenizer.sep_id == (end if ids["sep"] is None else ids["sep"])
    assert tokenizer.vocab_size == max(reference.get_vocab().values()) + 1
    # Beside the model's config.json or without one, and read once more by AutoTokenizer itself.
    for place, beside in {"apart": {}, "beside": json_of(directory, "config.json")}.items():
        tokenizer.write(tmp_path / place)
        write(tmp_path / place, beside)
        copied = AutoTokenizer.from_pretrained(tmp_path / place, local_files_only=True)
        assert copied(TEXTS, add_special_tokens=False, split_special_tokens=True)["input_ids"] == expected
        assert copied("a")["input_ids"] == reference("a")["input_ids"]
        assert difference(tokenizer, load_tokenizer(tmp_path / place)) is None


def json_of(directory, name):
    path = directory / name
    return {name: json.loads(path.read_text())} if path.is_file() else {}


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("name", [name for name in FORMS if "truncated" in name or "slow, added" in name or "bare" in name])
def test_shards_hold_the_ids_of_autotokenizer(tmp_path, name, split):
    form = FORMS[name]
    directory = form.write(tmp_path / "given")
    texts = [text.strip() for text in TEXTS if len(text.strip()) > 3]
    corpus = {"files": [write_jsonl(tmp_path / "text.jsonl", texts)], "dedupe": "none", "heldout_fraction": 0.3}
    tokenizer = {"path": str(directory), "split_special_tokens": split}
    data = prepare(preparation(tmp_path / "out", corpus, tokenizer=tokenizer))
    documents = []
    for part in (TRAIN, HELDOUT):
        for prefix in data.shards(data.corpora[0], part):
            shard = Shard(prefix)
            bounds = [sum(shard.lengths[:at]) for at in range(shard.sequences + 1)]
            documents += [shard.tokens[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    # Cleaning changes some of the texts (control characters): the reference reads what was kept.
    kept = [text for text in texts if text.isascii() and "\r" not in text]
    _, expected = theirs(directory, form, kept, split)
    end = data.tokenizer.eos_id
    assert sum(ids in documents for ids in ([*ids, end] for ids in expected)) == len(kept) > 30
    assert data.manifest.config.tokenizer.split_special_tokens is split
    assert len({ids[-1] for ids in documents}) == 1


def test_a_special_token_that_a_text_spells_is_text_unless_that_is_not_wanted(tmp_path):
    directory = FORMS["bert slow"].write(tmp_path)
    assert 4 not in load_tokenizer(directory).encode_batch(["a [MASK] b"])[0]
    assert 4 in load_tokenizer(directory, split_special_tokens=False).encode_batch(["a [MASK] b"])[0]
    # As a call of transformers' own on the same object would leave it.
    tokenizer = load_tokenizer(directory)
    tokenizer.hugging_face("ba [MASK] ce di", split_special_tokens=False, truncation=True, max_length=3, padding="max_length")
    assert tokenizer.encode_batch(TEXTS) == load_tokenizer(directory).encode_batch(TEXTS)


def _without(name, *names):
    files = FORMS[name].files()
    return {key: content for key, content in files.items() if key not in names}


def _vocabulary(special):
    return {"vocab.json": {token: number for number, token in enumerate([*special, *"abc"])}, "merges.txt": "#version: 0.2\n"}


_CLASS = tokenizer_config(tokenizer_class="PreTrainedTokenizerFast")
_WORDS = {
    "type": "WordLevel",
    "vocab": {word: number for number, word in enumerate(["[UNK]", "[SEP]", "ba", "ce"])},
    "unk_token": "[UNK]",
}
_SPELLED = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [described("[SEP]", id=1, special=True)],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None,
    "model": _WORDS,
}
REFUSED = {
    "cased, not said": (lambda: CASED | config("bert"), r"has \d+ pieces with capital letters.*write do_lower_case: false"),
    "cased, bare": (lambda: CASED, "pieces with capital letters"),
    "cased json, not said": (
        lambda: _without("bert fast, cased", "tokenizer_config.json"),
        "transformers' BertTokenizer gives other ids than tokenizer.json by itself .*name tokenizer_class",
    ),
    "another class's files": (
        lambda: CASED | config("gpt2"),
        "GPT2Tokenizer reads vocab.json and merges.txt, and vocab.json is",
    ),
    "no vocabulary of the class": (lambda: GPT2 | config("bert"), "BertTokenizer reads vocab.txt, and vocab.txt is not there"),
    "no merges": (lambda: {"vocab.json": GPT2["vocab.json"]} | config("gpt2"), "the tokenizer does not load .*merges"),
    "whose it is": (lambda: _vocabulary(["<|pad|>"]), "no file says whose tokenizer this is; name a tokenizer_class"),
    "whose sentencepiece": (lambda: LLAMA | {"special_tokens_map.json": {"eos_token": "</s>"}}, "no file says whose tokenizer"),
    "json of another": (
        lambda: _without("llama fast, verbatim", "config.json", "tokenizer_config.json") | config("gpt2"),
        "GPT2Tokenizer gives other ids than tokenizer.json by itself",
    ),
    "a foreign json beside qwen2": (
        lambda: _without("gpt2 prefix, verbatim", "config.json") | config("qwen2"),
        "Qwen2Tokenizer gives other ids than tokenizer.json .* or train one of its form",
    ),
    "no end": (lambda: _without("llama fast, verbatim", "tokenizer_config.json") | _CLASS, "has no end-of-document token"),
    "an empty end": (
        lambda: LLAMA | tokenizer_config(tokenizer_class="LlamaTokenizer", eos_token=""),
        "has no end-of-document token",
    ),
    "spelled all the same": (
        lambda: {
            "tokenizer.json": _SPELLED,
            **tokenizer_config(tokenizer_class="PreTrainedTokenizerFast", sep_token="[SEP]", unk_token="[UNK]"),
        },
        r"makes the special token '\[SEP\]' of a text that spells it.*set tokenizer.split_special_tokens: false",
    ),
    "tiktoken alone": (lambda: {"tokenizer.model": b"IQ== 0\nIg== 1\n"}, "tokenizer.model: not a sentencepiece model"),
    "tiktoken of a Llama": (lambda: {"tokenizer.model": b"IQ== 0\nIg== 1\n"} | config("llama"), "does not load"),
    "no JSON": (
        lambda: FORMS["bert slow"].files() | {"tokenizer_config.json": "{"},
        "tokenizer_config.json: not readable as JSON",
    ),
    "code of its own": (
        lambda: {
            **tokenizer_config(tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]}),
            "own.py": "raise SystemExit('was run')",
            "tokenizer.json": FORMS["gpt2 fast"].files()["tokenizer.json"],
            "config.json": {"model_type": "own"},
        },
        "does not load",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_known_to_be_right_is_refused_by_name(tmp_path, name):
    files, message = REFUSED[name]
    write(tmp_path, files())
    with pytest.raises(UserError, match=message) as refused:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_where_a_class_differs_in_the_blank_in_front_alone_it_is_remarked_on(tmp_path):
    (remark,) = load_tokenizer(FORMS["llama slow"].write(tmp_path / "one")).remarks
    assert "transformers' LlamaTokenizer gives other ids than tokenizer.model by itself (the text " in remark
    assert "they differ in the blank in front of a text, and LlamaTokenizer's are taken" in remark
    for name in ("gpt2 slow", "bert fast and slow", "qwen2 fast", "mistral fast, verbatim"):
        assert load_tokenizer(FORMS[name].write(tmp_path / name)).remarks == ()


_NO_FILE = object()


@pytest.mark.parametrize(
    ("keys", "listed", "fits"),
    [
        ({}, _NO_FILE, True),
        ({"eos_token_id": None}, _NO_FILE, True),
        ({"eos_token_id": 2}, _NO_FILE, True),
        ({"eos_token_id": [1, 2]}, _NO_FILE, True),
        # What is no id of the vocabulary is a class's default.
        ({"eos_token_id": 50256}, _NO_FILE, True),
        ({"eos_token_id": 1}, _NO_FILE, False),
        ({"eos_token_id": [0, 1]}, _NO_FILE, False),
        # What generation_config.json lists is an end of the model's too.
        ({"eos_token_id": 1}, [1, 2], True),
        ({"eos_token_id": 1}, 2, True),
        ({"eos_token_id": 1}, [0, 1], False),
        ({"eos_token_id": 1}, None, False),
    ],
)
def test_documents_end_as_the_models_configuration_says(tmp_path, keys, listed, fits):
    directory = FORMS["llama slow"].write(tmp_path)
    generation = {} if listed is _NO_FILE else {"generation_config.json": {"eos_token_id": listed}}
    write(directory, config("llama", **keys) | generation)
    if fits:
        assert given_tokenizer(directory, True).eos_id == 2
    else:
        sentence = (
            r"config.json: eos_token_id is .*, and the tokenizer beside it ends a text with id 2, '</s>'; copy the directory"
        )
        with pytest.raises(UserError, match=f"{sentence}, and correct one of the two in the copy"):
            given_tokenizer(directory, True)


def test_a_tokenizers_files_are_all_that_autotokenizer_reads(tmp_path):
    directory = FORMS["qwen2 fast and slow"].write(tmp_path / "given")
    template = "{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
    write(directory, {"chat_template.jinja": template, "special_tokens_map.json": {"eos_token": "<|endoftext|>"}})
    write(directory / "additional_chat_templates", {"tools.jinja": "tools"})
    write(directory, {"model.safetensors": b"", "generation_config.json": {}, "training_args.bin": b""})
    tokenizer = load_tokenizer(directory)
    named = {str(path.relative_to(directory)) for path in tokenizer.files}
    assert named == {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
    }
    tokenizer.write(tmp_path / "copy")
    write(tmp_path / "copy", config("qwen2"))
    copied = AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert copied.chat_template == {"default": template, "tools": "tools"}
    assert copied.apply_chat_template([{"content": "ba"}], tokenize=False) == "<ba>"
