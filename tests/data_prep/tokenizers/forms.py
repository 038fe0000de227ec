"""Tokenizer directories of the seven families in the forms that versions of transformers left, written by hand."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.data_prep.prose import made_up_texts

SPECIALS = (
    "<|endoftext|> </s> <s> <unk> <pad> <mask> [CLS] [SEP] [MASK] [PAD] [UNK] <|im_start|> <|im_end|> <|begin_of_text|> <new>"
)
TEXTS = [
    *made_up_texts(12, seed=5),
    "",
    " one blank in front",
    "  two blanks  inside and behind  ",
    "UPPER Lower ÉTÉ été Straße naïve e\u0301",
    "1 22 333 4444 55,555.66",
    "def f(x):\n\treturn x['a']\r\n\n\n  # it's",
    "日本語 中文 😀👍🏽 \u00a0 \u200b \x07 \ufffd",
    *SPECIALS.split(),
    *(f"a{token}b {token} c" for token in SPECIALS.split()),
    "ba ce di " * 400,
]
_PROSE = made_up_texts(150)
_QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
Files = dict[str, Any]
"""What is in a directory, by name: text, bytes, or what is to be JSON."""


@dataclass(frozen=True)
class Form:
    """A directory, and how AutoTokenizer is to be called on it."""

    files: Callable[[], Files]
    type: str | None = None
    """Its `tokenizer_type`, where no file says what the tokenizer is."""

    def write(self, directory: Path) -> Path:
        """Write the files; return the directory."""
        return write(directory, self.files())


def write(directory: Path, files: Files) -> Path:
    """Write files into a directory, which is made; return it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (directory / name).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            (directory / name).write_text(text, encoding="utf-8")
    return directory


def config(family: str, **keys: Any) -> Files:
    """The model's config.json."""
    return {"config.json": {"model_type": family, **keys}}


def tokenizer_config(**keys: Any) -> Files:
    """What tokenizer_config.json says."""
    return {"tokenizer_config.json": keys}


def _mapped(names: dict[str, Any], **more: Any) -> Files:
    return {"special_tokens_map.json": names | more}


def _trained(tokenizer: Tokenizer, size: int, special: list[str]) -> dict[str, Any]:
    """The model part of a trained tokenizer's JSON."""
    if isinstance(tokenizer.model, models.WordPiece):
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    else:
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_PROSE, trainer)
    return json.loads(tokenizer.to_str())["model"]


def _cut(tokenizer: Tokenizer, pattern: str | None, prefix: bool = False) -> Tokenizer:
    """A tokenizer that cuts words by GPT-2's expression, or text in NFC by another one."""
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    if pattern is not None:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
    return tokenizer


def _byte_level(special: list[str], pattern: str | None = None) -> Files:
    model = _trained(_cut(Tokenizer(models.BPE()), pattern), 500, special)
    merges = "".join(" ".join(merge) + "\n" for merge in model["merges"])
    return {"vocab.json": model["vocab"], "merges.txt": f"#version: 0.2\n{merges}"}


def _as_json(files: Files, special: list[str], *, pattern: str | None = None, prefix: bool = False, **more: Any) -> Files:
    """A byte-level tokenizer as tokenizer.json, by the library that writes it; `more` goes into the file."""
    merges = [tuple(line.split(" ")) for line in files["merges.txt"].splitlines()[1:]]
    tokenizer = _cut(Tokenizer(models.BPE(files["vocab.json"], merges)), pattern, prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return {"tokenizer.json": json.loads(tokenizer.to_str()) | more}


def saved(length: int, pad: str, pad_id: int) -> dict[str, Any]:
    """What a call with truncation and padding leaves in tokenizer.json."""
    padding = {"strategy": {"Fixed": length}, "direction": "Right", "pad_to_multiple_of": None}
    return {
        "truncation": {"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": 0},
        "padding": padding | {"pad_id": pad_id, "pad_type_id": 0, "pad_token": pad},
    }


def described(token: str, **keys: Any) -> dict[str, Any]:
    """A special token as special_tokens_map.json has it."""
    return {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} | keys


_END = "<|endoftext|>"
_VERBATIM = "PreTrainedTokenizerFast"
GPT2 = _byte_level([_END])
_GPT2_SIZE = len(GPT2["vocab.json"])
_GPT2_NAMES = dict.fromkeys(("bos_token", "eos_token", "unk_token"), _END)
_GPT2_MAP = _mapped(_GPT2_NAMES)
_GPT2_ADDED = _mapped(_GPT2_NAMES, pad_token="[PAD]") | {"added_tokens.json": {"[PAD]": _GPT2_SIZE, "<new>": _GPT2_SIZE + 1}}
_GPT2_JSON = _as_json(GPT2, [_END])
_GPT2_CONFIG = tokenizer_config(model_max_length=1024)
_GPT2_OWN = _GPT2_NAMES | {"add_prefix_space": False, "tokenizer_class": "GPT2Tokenizer"}
_GPT2_CLASS = tokenizer_config(**_GPT2_OWN, name_or_path="gpt2", special_tokens_map_file=None)
_GPT2_V5 = tokenizer_config(
    **_GPT2_OWN, backend="tokenizers", errors="replace", is_local=False, model_max_length=1024, pad_token=_END
)

_ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ROBERTA = _byte_level(_ROBERTA_SPECIAL)
_ROBERTA_ROLES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
_ROBERTA_NAMES = {f"{role}_token": token for role, token in _ROBERTA_ROLES.items()}
_ROBERTA_MAP = _mapped(_ROBERTA_NAMES, mask_token=described("<mask>", lstrip=True))
_ROBERTA_JSON = _as_json(ROBERTA, _ROBERTA_SPECIAL)

_BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _wordpiece(lower: bool) -> list[str]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    vocabulary = _trained(tokenizer, 500, _BERT_SPECIAL)["vocab"]
    return sorted(vocabulary, key=vocabulary.get)


UNCASED, CASED = ({"vocab.txt": "".join(piece + "\n" for piece in _wordpiece(lower))} for lower in (True, False))


def _bert_json(files: Files, lower: bool, **more: Any) -> Files:
    pieces = files["vocab.txt"].split("\n")[:-1]
    tokenizer = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in _BERT_SPECIAL])
    return {"tokenizer.json": json.loads(tokenizer.to_str()) | more}


_BERT_NAMES = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_BERT_MAP = _mapped(_BERT_NAMES)
_BERT_ADDED = {"added_tokens.json": {"<new>": UNCASED["vocab.txt"].count("\n")}}
_LOWER = tokenizer_config(do_lower_case=True)
_BERT_CLASS = tokenizer_config(do_lower_case=True, tokenizer_class="BertTokenizer")
_CASED_CLASS = tokenizer_config(do_lower_case=False, tokenizer_class="BertTokenizer")
_CASED_FAST = tokenizer_config(do_lower_case=False, tokenizer_class="BertTokenizerFast")


def _decoder(tokens: dict[int, str], **keys: Any) -> dict[str, Any]:
    """Added tokens as tokenizer_config.json has them since 4.34."""
    return {"added_tokens_decoder": {str(n): described(token) | {"special": True} | keys for n, token in tokens.items()}}


def _sentencepiece() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in _PROSE for line in text.split("\n") if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()


SENTENCEPIECE = _sentencepiece()
LLAMA = {"tokenizer.model": SENTENCEPIECE}


def _llama_json(**more: Any) -> Files:
    """As converted until version 4.38: a blank in front by the normalizer."""
    model = sentencepiece.SentencePieceProcessor(model_proto=SENTENCEPIECE)
    pieces = [model.id_to_piece(number) for number in range(model.vocab_size())]
    plain = {piece: number for number, piece in enumerate(pieces) if number > 2 and not model.is_byte(number)}
    pairs = [(piece[:cut], piece[cut:]) for piece in plain for cut in range(1, len(piece))]
    merges = [pair for pair in pairs if pair[0] in plain and pair[1] in plain]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    return {"tokenizer.json": json.loads(tokenizer.to_str()) | more}


_LLAMA_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_LLAMA_KEYS = _LLAMA_NAMES | {
    "add_bos_token": True,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "legacy": False,
    "model_max_length": 1000000000000000019884624838656,
    "pad_token": None,
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
}
_LLAMA_MAP = _mapped({name: described(token) for name, token in _LLAMA_NAMES.items()})


def _llama_config(**keys: Any) -> Files:
    return tokenizer_config(**_LLAMA_KEYS | keys)


_LLAMA3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
_LLAMA3_NAMES = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _byte_level([], _LLAMA3_PATTERN)
_LLAMA3_FILES = _as_json(_LLAMA3, _LLAMA3_SPECIAL, pattern=_LLAMA3_PATTERN) | {
    # Meta's own file, tiktoken's: a piece in base64 and its rank.
    "tokenizer.model": b"IQ== 0\nIg== 1\nIw== 2\n",
    **tokenizer_config(**_LLAMA3_NAMES, model_max_length=131072, tokenizer_class="PreTrainedTokenizerFast"),
    **_mapped(_LLAMA3_NAMES),
}

QWEN = _byte_level([], _QWEN)
_QWEN_SIZE = len(QWEN["vocab.json"])
_QWEN_ADDED = [_END, "<|im_start|>", "<|im_end|>"]
_QWEN_JSON = _as_json(QWEN, _QWEN_ADDED, pattern=_QWEN)
_QWEN_KEYS = {
    "add_prefix_space": False,
    **_decoder({_QWEN_SIZE + number: token for number, token in enumerate(_QWEN_ADDED)}),
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "bos_token": None,
    "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    "clean_up_tokenization_spaces": False,
    "eos_token": _END,
    "errors": "replace",
    "model_max_length": 32768,
    "pad_token": _END,
    "split_special_tokens": False,
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": None,
}


def _qwen(family: str) -> dict[str, Form]:
    described, beside = tokenizer_config(**_QWEN_KEYS), config(family)
    tools = _decoder({_QWEN_SIZE + 3: "<new>"}, special=False)["added_tokens_decoder"]
    grown = _QWEN_KEYS | {"added_tokens_decoder": _QWEN_KEYS["added_tokens_decoder"] | tools}
    plain = {key: value for key, value in _QWEN_KEYS.items() if not key.startswith("add")}
    return {
        f"{family} slow": Form(lambda: QWEN | described | beside),
        f"{family} slow, class alone": Form(lambda: QWEN | described),
        f"{family} fast and slow": Form(lambda: QWEN | _QWEN_JSON | described | beside),
        f"{family} fast": Form(lambda: _QWEN_JSON | described | beside),
        f"{family} fast, saved by 5": Form(lambda: _QWEN_JSON | tokenizer_config(**plain, backend="tokenizers") | beside),
        f"{family} added, no special token": Form(lambda: QWEN | tokenizer_config(**grown) | beside),
        f"{family} truncated": Form(
            lambda: _as_json(QWEN, _QWEN_ADDED, pattern=_QWEN, **saved(8, _END, _QWEN_SIZE)) | described | beside
        ),
    }


def _llama(family: str) -> dict[str, Form]:
    beside, both = config(family), {**LLAMA, **_llama_json()}
    pad = {"added_tokens.json": {"<pad>": 600}} | _mapped(_LLAMA_NAMES, pad_token="<pad>")
    old = tokenizer_config(model_max_length=2048, padding_side="right", tokenizer_class="LlamaTokenizer")
    return {
        f"{family} slow": Form(lambda: LLAMA | _llama_config() | _LLAMA_MAP | beside),
        f"{family} slow, legacy": Form(lambda: LLAMA | _llama_config(legacy=True) | _LLAMA_MAP | beside),
        f"{family} slow, of 4.28": Form(lambda: LLAMA | old | _mapped(_LLAMA_NAMES) | beside),
        f"{family} slow, no bos": Form(lambda: LLAMA | _llama_config(add_bos_token=False) | _LLAMA_MAP | beside),
        f"{family} slow, bos and eos": Form(lambda: LLAMA | _llama_config(add_eos_token=True) | beside),
        f"{family} slow, class alone": Form(lambda: LLAMA | _llama_config()),
        f"{family} slow, added": Form(lambda: LLAMA | old | pad | beside),
        f"{family} sentencepiece and config": Form(lambda: LLAMA | beside),
        f"{family} fast and slow": Form(lambda: both | _llama_config() | _LLAMA_MAP | beside),
        f"{family} fast and slow, legacy": Form(lambda: both | _llama_config(legacy=True) | _LLAMA_MAP | beside),
        f"{family} fast, class alone": Form(lambda: _llama_json() | _llama_config(tokenizer_class="LlamaTokenizerFast")),
        f"{family} fast, verbatim": Form(lambda: _llama_json() | _llama_config(tokenizer_class=_VERBATIM) | beside),
        f"{family} truncated": Form(lambda: LLAMA | _llama_json(**saved(8, "</s>", 2)) | _llama_config() | beside),
        f"{family} tiktoken beside json": Form(lambda: _LLAMA3_FILES | beside),
    }


FORMS: dict[str, Form] = {
    "gpt2 slow": Form(lambda: GPT2 | config("gpt2")),
    "gpt2 slow, of the hub": Form(lambda: GPT2 | _GPT2_CONFIG | config("gpt2")),
    "gpt2 slow, class alone": Form(lambda: GPT2 | _GPT2_CLASS | _GPT2_MAP),
    "gpt2 slow, added": Form(lambda: GPT2 | _GPT2_CLASS | _GPT2_ADDED | config("gpt2", vocab_size=_GPT2_SIZE + 2)),
    "gpt2 slow, prefix": Form(lambda: GPT2 | tokenizer_config(add_prefix_space=True) | config("gpt2")),
    "gpt2 slow, resized": Form(lambda: GPT2 | _GPT2_CLASS | config("gpt2", vocab_size=1024)),
    "gpt2 bare": Form(lambda: GPT2, "gpt2"),
    "gpt2 fast and slow": Form(lambda: GPT2 | _GPT2_JSON | _GPT2_CONFIG | config("gpt2")),
    "gpt2 fast": Form(lambda: _GPT2_JSON | config("gpt2")),
    "gpt2 fast, saved by 5": Form(lambda: _GPT2_JSON | _GPT2_V5 | config("gpt2")),
    "gpt2 fast, json alone": Form(lambda: _GPT2_JSON),
    "gpt2 truncated": Form(lambda: GPT2 | _as_json(GPT2, [_END], **saved(8, _END, 0)) | _GPT2_CLASS | config("gpt2")),
    "gpt2 truncated, json alone": Form(lambda: _as_json(GPT2, [_END], **saved(8, _END, 0))),
    "gpt2 prefix, verbatim": Form(
        lambda: (
            _as_json(GPT2, [_END], prefix=True) | tokenizer_config(tokenizer_class=_VERBATIM, eos_token=_END) | config("gpt2")
        )
    ),
    "roberta slow": Form(lambda: ROBERTA | config("roberta")),
    "roberta slow, map": Form(lambda: ROBERTA | _ROBERTA_MAP | config("roberta")),
    "roberta bare": Form(lambda: ROBERTA, "roberta"),
    "roberta fast and slow": Form(
        lambda: ROBERTA | _ROBERTA_JSON | _ROBERTA_MAP | tokenizer_config(model_max_length=512) | config("roberta")
    ),
    "roberta fast": Form(lambda: _ROBERTA_JSON | tokenizer_config(tokenizer_class="RobertaTokenizerFast") | config("roberta")),
    "roberta truncated": Form(
        lambda: ROBERTA | _as_json(ROBERTA, _ROBERTA_SPECIAL, **saved(8, "<pad>", 1)) | _ROBERTA_MAP | config("roberta")
    ),
    "roberta added": Form(
        lambda: ROBERTA | {"added_tokens.json": {"<new>": len(ROBERTA["vocab.json"])}} | _ROBERTA_MAP | config("roberta")
    ),
    "bert slow": Form(lambda: UNCASED | config("bert")),
    "bert slow, with length": Form(
        lambda: UNCASED | tokenizer_config(do_lower_case=True, model_max_length=512) | config("bert")
    ),
    "bert slow, class alone": Form(lambda: UNCASED | _BERT_CLASS | _BERT_MAP),
    "bert slow, cased": Form(lambda: CASED | tokenizer_config(do_lower_case=False) | config("bert")),
    "bert slow, cased, class alone": Form(lambda: CASED | _CASED_CLASS | _BERT_MAP),
    "bert slow, accents kept": Form(
        lambda: UNCASED | tokenizer_config(do_lower_case=True, strip_accents=False) | config("bert")
    ),
    "bert slow, no Chinese": Form(
        lambda: UNCASED | tokenizer_config(do_lower_case=True, tokenize_chinese_chars=False) | config("bert")
    ),
    "bert slow, added": Form(lambda: UNCASED | _BERT_ADDED | _BERT_MAP | _LOWER | config("bert")),
    "bert bare": Form(lambda: UNCASED, "bert"),
    "bert fast and slow": Form(lambda: UNCASED | _bert_json(UNCASED, True) | _BERT_MAP | _LOWER | config("bert")),
    "bert fast": Form(lambda: _bert_json(UNCASED, True) | config("bert")),
    "bert fast, cased": Form(lambda: CASED | _bert_json(CASED, False) | _CASED_FAST | config("bert")),
    "bert fast, cased, verbatim": Form(
        lambda: _bert_json(CASED, False) | tokenizer_config(**_BERT_NAMES, tokenizer_class=_VERBATIM) | config("bert")
    ),
    "bert truncated": Form(lambda: UNCASED | _bert_json(UNCASED, True, **saved(8, "[PAD]", 0)) | _BERT_CLASS | config("bert")),
    **_llama("llama"),
    **_llama("mistral"),
    **_qwen("qwen2"),
    **_qwen("qwen3"),
}
