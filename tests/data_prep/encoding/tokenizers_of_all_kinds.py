"""Small tokenizers with the pipelines of published ones, as tokenizer.json describes them."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_prep.encoding.libraries import LIBRARIES, Encode
from data_prep.encoding.ragged import Ragged
from data_prep.tokenizers.probes import PROBES
from tests.data_prep.prose import made_up_texts

_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = rf"{_CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTED}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTED}?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_FASTOKENS = LIBRARIES["fastokens"]
_TEXTS = [*made_up_texts(30, seed=2), *PROBES[:-2]] * 2


def _byte_level(pattern: str | None, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("<added>", normalized=False)])
    return tokenizer


def _byte_fallback(*, prefix: bool) -> Tokenizer:
    """Llama-2's, which puts a blank in front of a text, and Gemma's, which does not."""
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    special = ["<unk>", "<s>", "</s>"]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(
        [text.replace(" ", " ▁") for text in _TEXTS], trainers.BpeTrainer(vocab_size=500, show_progress=False)
    )
    learned = _model_of(trained)
    pieces = special + bytes_ + [piece for piece in learned["vocab"] if piece not in bytes_]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)},
        [tuple(merge) for merge in learned["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    front = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    return tokenizer


def _model_of(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_str())["model"]


def _unigram() -> Tokenizer:
    """T5's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer


def _wordpiece(*, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        _TEXTS, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    return tokenizer


def wrong_on(mark: str) -> Callable[[str], Encode]:
    """fastokens, right but for texts with a mark."""

    def load(described: str) -> Encode:
        right = _FASTOKENS(described)

        def encode(texts: list[str]) -> Ragged:
            found = right(texts)
            ends = np.cumsum(found.lengths)
            ids = found.ids.copy()
            ids[[ends[n] - 1 for n, text in enumerate(texts) if mark in text]] ^= 1
            return Ragged(ids, found.lengths)

        return encode

    return load


KINDS: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "GPT-2": (lambda: _byte_level(None), "fastokens"),
    "Llama-3": (lambda: _byte_level(_LLAMA3), "fastokens"),
    "Qwen2": (lambda: _byte_level(_LLAMA3.replace("{1,3}", ""), normalizers.NFC()), "fastokens"),
    "GPT-4o": (lambda: _byte_level(_O200K), "fastokens"),
    "Llama-2": (lambda: _byte_fallback(prefix=True), "splintr-rs"),
    "Gemma": (lambda: _byte_fallback(prefix=False), "splintr-rs"),
    "T5": (_unigram, "splintr-rs"),
    "BERT cased": (lambda: _wordpiece(lowercase=False), "nanotoken"),
    "BERT uncased": (lambda: _wordpiece(lowercase=True), "nanotoken"),
}
"""How to make one of each kind, and the library that encodes by it."""
