"""Training tokenizers: the same texts give the same files, whatever the number of threads or processes."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_prep.settings import TokenizerConfig
from data_prep.tokenizers.files import SENTENCEPIECE
from pipeline.common.errors import UserError

_END = {"eos_token": "<|endoftext|>"}
_BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
# `<s>` opens a window and `</s>` ends a document or parts two, so each has two names.
_ROBERTA = {
    "bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>",
    "unk_token": "<unk>", "mask_token": "<mask>",
}  # fmt: skip
_LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
SPECIAL_TOKENS: dict[str, dict[str, str]] = {
    "gpt2": _END,
    "bert": _BERT,
    "roberta": _ROBERTA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _END,
    "qwen3": _END,
}
"""What each family's special tokens are for, by transformers' names, in the order of their ids from 0."""

_LONGEST_LINE = 4192
"""Bytes of a line that sentencepiece's trainer reads; it passes over longer ones."""
_ALPHABET = 1000
"""Characters that WordPiece keeps; others become [UNK]."""
_INNER = "##"
_QWEN = ("qwen2", "qwen3")


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig, folder: Path) -> None:
    """Train a tokenizer on `texts` and write its files into `folder`.

    sentencepiece: tokenizer.model, and for BPE the same tokenizer as tokenizer.json; the others: tokenizer.json. Each
    tokenizer.json has a tokenizer_config.json beside it, by which transformers' AutoTokenizer knows the special tokens.
    BERT's frames texts by [CLS] and [SEP] there; the others add nothing. Raises UserError where the vocabulary does not
    fit the text.
    """
    special = SPECIAL_TOKENS[config.family]
    vocab_size = config.vocab_size
    if vocab_size is None:
        raise ValueError(f"{config.path}: a tokenizer to load is not trained")
    if config.algorithm.startswith("sentencepiece"):
        path = folder / SENTENCEPIECE
        path.write_bytes(_sentencepiece_model(texts, config, special))
        # Unigram's ties fall to sums in 32 bits here and in 64 bits there: one document in 250 would get other ids.
        if config.algorithm == "sentencepiece_bpe":
            _save(_sentencepiece_bpe_as_json(path), special, folder)
        return
    tokenizer = (
        _byte_level_bpe(texts, vocab_size, special, qwen=config.family in _QWEN)
        if config.algorithm == "byte_level_bpe"
        else _wordpiece(texts, vocab_size, special)
    )
    size = tokenizer.get_vocab_size()
    if size != vocab_size:
        few = size < vocab_size
        raise _unfit(config, f"it takes {size} pieces at {'most' if few else 'least'}", too_large=few)
    _save(tokenizer, special, folder, "Qwen2Tokenizer" if config.family in _QWEN else "PreTrainedTokenizerFast")


def _unfit(config: TokenizerConfig, reason: str, *, too_large: bool) -> UserError:
    advice = "name a smaller one" if too_large else "name a larger one"
    if not too_large and config.algorithm.startswith("sentencepiece_"):
        advice += ", or `algorithm: byte_level_bpe`, which needs no piece for each character of the text"
    return UserError(f"tokenizer.vocab_size: {config.vocab_size} does not fit the text ({reason}); {advice}")


def _sentencepiece_model(texts: Iterable[str], config: TokenizerConfig, special: dict[str, str]) -> bytes:
    model = io.BytesIO()
    options = _special_pieces(special)
    if config.algorithm == "sentencepiece_unigram":
        options["num_threads"] = 1  # its sums, and so its pieces, depend on it
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type=config.algorithm.removeprefix("sentencepiece_"),
            vocab_size=config.vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
            **options,
        )
    except RuntimeError as error:
        # Before the bracket stands where in the library's source it was thrown, behind the sizes options that are none here.
        reason = " ".join(str(error).rpartition("] ")[2].split())
        raise _unfit(config, reason.partition(". Increase vocab_size")[0], too_large="too high" in reason) from None
    return model.getvalue()


def _special_pieces(special: dict[str, str]) -> dict[str, Any]:
    """sentencepiece's options that give the special tokens their names and ids."""
    names = list(dict.fromkeys(special.values()))
    roles = {
        "bos": special.get("bos_token", special.get("cls_token")),
        "eos": special.get("eos_token", special.get("sep_token")),
        "pad": special.get("pad_token"),
        "unk": special["unk_token"],
    }
    options: dict[str, Any] = {"control_symbols": [name for name in names if name not in roles.values()]}
    for role, name in roles.items():
        if name is not None:
            options[f"{role}_id"] = names.index(name)
            if name.startswith("["):  # the others are the trainer's own; the model's file would record that they were given
                options[f"{role}_piece"] = name
    return options


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """The texts' lines, cut at spaces where the trainer would pass over them."""
    for text in texts:
        for line in text.split("\n"):
            while len(line) * 4 > _LONGEST_LINE and len(line.encode()) > _LONGEST_LINE:
                end = line.rfind(" ", 1, _LONGEST_LINE // 4)
                end = end if end > 0 else _LONGEST_LINE // 4
                yield line[:end]
                line = line[end:]
            if line.strip():
                yield line


def _sentencepiece_bpe_as_json(path: Path) -> Tokenizer:
    """The same tokenizer in Hugging Face's library: a pair merges the sooner, the higher the score of what it becomes."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [model.id_to_piece(index) for index in range(model.vocab_size())]
    special = [pieces[i] for i in range(len(pieces)) if model.is_control(i) or model.is_unknown(i)]
    scores = {
        pieces[i]: model.get_score(i) for i in range(len(pieces)) if not (model.is_byte(i) or pieces[i] in special)
    }  # fmt: skip
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(scores, key=lambda piece: -scores[piece])
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=pieces[model.unk_id()], fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    return tokenizer


def _byte_level_bpe(texts: Iterable[str], vocab_size: int, special: dict[str, str], *, qwen: bool) -> Tokenizer:
    """GPT-2's: bytes for an alphabet, words split by its expression, or by Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if qwen:
        # As transformers' class has them, by which every tokenizer of a qwen2 model is rebuilt.
        from transformers import Qwen2Tokenizer

        own = Qwen2Tokenizer().backend_tokenizer
        tokenizer.normalizer, tokenizer.pre_tokenizer = own.normalizer, own.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _wordpiece(texts: Iterable[str], vocab_size: int, special: dict[str, str]) -> Tokenizer:
    """BERT's uncased.

    The library numbers the pieces inside words as it meets them in a hash table, and equally frequent pairs merge in the
    order of their numbers: from run to run the vocabulary differs. Named beforehand, in order, those pieces stay put.
    """
    texts = list(texts)
    tokenizer = _untrained_wordpiece(special)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    del counts[" "]
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:_ALPHABET]
    alphabet: dict[str, Any] = {"initial_alphabet": frequent, "limit_alphabet": len(frequent), "show_progress": False}
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=0, **alphabet))
    inner = sorted(piece for piece in tokenizer.get_vocab() if piece.startswith(_INNER) and len(piece) == len(_INNER) + 1)

    tokenizer = _untrained_wordpiece(special)
    names = list(special.values())
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=names + inner, **alphabet)
    )
    trained = _untrained_wordpiece(special, tokenizer.get_vocab())
    trained.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    return trained


def _untrained_wordpiece(special: dict[str, str], vocabulary: dict[str, int] | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_INNER)
    return tokenizer


def _save(tokenizer: Tokenizer, special: dict[str, str], folder: Path, kind: str = "PreTrainedTokenizerFast") -> None:
    config = {"tokenizer_class": kind, "clean_up_tokenization_spaces": False, **special}
    if special is _BERT:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
        )
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    # Not by `save`: it raises a bare Exception for a full disk.
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
