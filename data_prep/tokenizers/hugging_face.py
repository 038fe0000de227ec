"""A tokenizer of Hugging Face's, as transformers' AutoTokenizer loads it, held against the files that it was made from."""

from pathlib import Path

import sentencepiece
import tokenizers
from transformers import PreTrainedTokenizerFast

from data_prep.tokenizers.auto_tokenizer import END, open_auto_tokenizer, read_tokenizer_config
from data_prep.tokenizers.environment import environment
from data_prep.tokenizers.files import CONFIG, JSON, SENTENCEPIECE, copy_files, tokenizer_files
from data_prep.tokenizers.meanings import Meanings, hugging_face_meanings
from data_prep.tokenizers.probes import PROBES, differing, spelled
from pipeline.common.errors import UserError, one_line
from pipeline.common.files import write_json

_ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false"}
"""Where the library may, it starts threads, and warns of them in every process that is started later."""
_QWEN2 = "Qwen2Tokenizer"
_VERBATIM = "PreTrainedTokenizerFast"
"""The class that reads tokenizer.json as it is, by the name that every version of transformers knows."""
_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_MOST_IDS = 1 << 26
"""No vocabulary has more; lists and tables are made as long as the largest id."""
_CASED_SHARE = 0.01
"""Share of the pieces with capitals from which a vocabulary is a cased one; uncased ones have next to none."""


class HuggingFaceTokenizer:
    """What AutoTokenizer makes of a directory, without truncation and padding."""

    def __init__(self, directory: Path, split_special_tokens: bool) -> None:
        self.directory = directory
        self.files = tokenizer_files(directory)
        self.split_special_tokens = split_special_tokens
        self.hugging_face = tokenizer = open_auto_tokenizer(directory)
        self.kind = _VERBATIM if type(tokenizer) is PreTrainedTokenizerFast else type(tokenizer).__name__
        self._backend = backend = tokenizer.backend_tokenizer
        tokenizer.split_special_tokens = split_special_tokens
        # It warns of texts longer than a model reads; whoever cuts them knows how long they may be.
        tokenizer.model_max_length = int(1e30)
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if self.vocab_size > _MOST_IDS:
            raise UserError(
                f"{directory}: the tokenizer's largest id is {self.vocab_size - 1}, and no model has more than {_MOST_IDS} "
                "rows; copy the tokenizer again"
            )
        if getattr(backend.model, "dropout", None):
            raise UserError(
                f"{directory}: the tokenizer has BPE dropout ({backend.model.dropout:g}), which gives a text other ids "
                f"each time; set model.dropout to null in {JSON}"
            )
        sep = self._id("sep")
        ends = (end for end in (self._id("eos"), sep, backend.token_to_id(END)) if end is not None)
        eos = next(ends, None)
        if eos is None:
            raise UserError(
                f"{directory}: the tokenizer has no end-of-document token (eos or sep); name an eos_token of its vocabulary in "
                f"{CONFIG}"
            )
        self.eos_id = eos
        self.sep_id = eos if sep is None else sep
        self.cls_id, self.mask_id, self.bos_id = self._id("cls"), self._id("mask"), self._id("bos")
        special = {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
        named = (backend.token_to_id(token) for token in tokenizer.all_special_tokens)
        self.special_ids: list[int] = sorted({eos, *special, *(number for number in named if number is not None)})
        self.special_tokens = [str(backend.id_to_token(number)) for number in self.special_ids]
        self.remarks: tuple[str, ...] = ()
        try:
            with environment(_ONE_THREAD):
                self._check()
                framed = tokenizer("a")["input_ids"]
                bare = self.encode_batch(["a"])[0]
        except UserError:
            raise
        except Exception as error:  # the tokenizers library raises plain Exception for what it cannot do
            raise UserError(f"{directory}: the tokenizer encodes no text ({one_line(error)})") from None
        starts = (at for at in range(len(framed) - len(bare) + 1) if framed[at : at + len(bare)] == bare)
        self.front: tuple[int, ...] = tuple(framed[: next(starts, 0)])
        """What the tokenizer puts in front of a text by itself (Llama's does)."""

    def _id(self, name: str) -> int | None:
        # Not the tokenizer's own ids: of a name that is no token of the vocabulary they are the unknown token's.
        token = getattr(self.hugging_face, f"{name}_token")
        return self._backend.token_to_id(token) if token else None

    def _check(self) -> None:
        """Raise UserError where the ids are not those of AutoTokenizer's own call, or of the files that it was made from."""
        texts = [*PROBES, *spelled(self.special_tokens)]
        ids = self.encode_batch(texts)
        theirs = self.hugging_face(texts, add_special_tokens=False, split_special_tokens=self.split_special_tokens)
        differs = differing(texts, theirs["input_ids"], ids)
        if differs is not None:
            raise UserError(f"{self.directory}: transformers itself gives other ids than its fast backend ({differs})")
        self._check_case()
        self._check_origin()

    def check_special_tokens(self) -> None:
        """Raise UserError where a special token is made of a text that spells it, although that is to be read as text."""
        if not self.split_special_tokens:
            return
        texts = spelled(self.special_tokens)
        unknown = self._id("unk")
        with environment(_ONE_THREAD):
            ids = self.encode_batch(texts)
        for token, number in zip(self.special_tokens, self.special_ids, strict=True):
            read = (numbers for text, numbers in zip(texts, ids, strict=True) if token in text)
            # What is spelled may be made of unknown pieces.
            if (number != unknown or number == self.eos_id) and any(number in numbers for numbers in read):
                raise UserError(
                    f"{self.directory}: makes the special token {token!r} of a text that spells it, even where it is to "
                    "read it as text; set tokenizer.split_special_tokens: false to have every such token read so"
                )

    def _check_case(self) -> None:
        """Raise UserError where a cased vocabulary is lower-cased because nothing says otherwise."""
        normalizer = self._backend.normalizer
        given = "do_lower_case" in read_tokenizer_config(self.directory) or (self.directory / JSON).is_file()
        if given or not getattr(normalizer, "lowercase", False):
            return
        pieces = self._backend.get_vocab(with_added_tokens=False).keys() - set(self.special_tokens)
        cased = sum(any("A" <= letter <= "Z" for letter in piece) for piece in pieces)
        if cased > _CASED_SHARE * len(pieces):
            raise UserError(
                f"{self.directory}: the vocabulary has {cased:,} pieces with capital letters, and the tokenizer makes every "
                f"text lower case, since nothing says otherwise; write do_lower_case: false (or true) into {CONFIG}"
            )

    def _check_origin(self) -> None:
        """Raise UserError where the class gives other ids than tokenizer.json, or tokenizer.model, that it was built from.

        A class is rebuilt from the vocabulary alone: what else such a file says (how text is normalized and cut) is lost.
        Whether a text gets a blank in front differs with many a Llama, and is remarked on: it moves the first word alone.
        """
        found = self._origin()
        if found is None:
            return
        name, theirs = found
        texts = list(PROBES)
        ids = self.encode_batch(texts)
        differs = differing(texts, theirs, ids)
        if differs is None:
            return
        wrong = f"{self.directory}: transformers' {self.kind} gives other ids than {name} by itself ({differs})"
        more = self.encode_batch([f" {text}" for text in texts])
        less = self.encode_batch([text.removeprefix(" ") for text in texts])
        if all(own in others for own, others in zip(theirs, zip(ids, more, less, strict=True), strict=True)):
            self.remarks = (f"{wrong}; they differ in the blank in front of a text, and {self.kind}'s are taken",)
            return
        if name == SENTENCEPIECE:
            raise UserError(
                f"{wrong}; name the right tokenizer_class in {CONFIG} (LlamaTokenizer, for instance), or name a directory that "
                "has tokenizer.model alone, to have it read by sentencepiece"
            )
        if self.kind == _QWEN2:
            raise UserError(
                f"{wrong}; transformers builds this class beside every qwen2 model: take a published Qwen2 tokenizer, or train "
                "one of its form (tokenizer: {algorithm: byte_level_bpe, family: qwen2})"
            )
        raise UserError(
            f"{wrong}; name tokenizer_class: {_VERBATIM} in {CONFIG} to have tokenizer.json read as it is, or save the "
            "tokenizer again with the version that wrote it"
        )

    def _origin(self) -> tuple[str, list[list[int]]] | None:
        """The file that the class was built from, and what the library that wrote it makes of PROBES; None where it is that."""
        if (self.directory / JSON).is_file():
            if self.kind == _VERBATIM:
                return None
            return JSON, _encoded(tokenizers.Tokenizer.from_file(str(self.directory / JSON)), list(PROBES), True)
        if not (self.directory / SENTENCEPIECE).is_file():
            return None
        try:
            model = sentencepiece.SentencePieceProcessor(model_file=str(self.directory / SENTENCEPIECE))
        except (OSError, RuntimeError):  # tiktoken's have the same name
            return None
        return SENTENCEPIECE, model.encode(list(PROBES), num_threads=1)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids, without special tokens."""
        return _encoded(self._backend, texts, self.split_special_tokens)

    def decode(self, ids: list[int]) -> str:
        """Return the text that `ids` stand for."""
        return str(self.hugging_face.decode(ids))

    def token(self, number: int) -> str:
        """Return how the vocabulary spells an id."""
        return str(self.hugging_face.convert_ids_to_tokens(number))

    def meanings(self) -> Meanings:
        """Return what each id stands for."""
        return hugging_face_meanings(self.hugging_face)

    def description(self) -> str:
        """Return what encodes as tokenizer.json describes it, without truncation and padding."""
        self._backend.no_truncation()
        self._backend.no_padding()
        return self._backend.to_str(pretty=True)

    def write(self, folder: Path) -> None:
        """Write the tokenizer into `folder` so that AutoTokenizer makes the same of it there, whatever config.json lies there.

        That is what the directory has, the class that was loaded in tokenizer_config.json, and tokenizer.json.
        """
        copy_files(self.files, self.directory, folder)
        keys = given = read_tokenizer_config(self.directory)
        if not (folder / JSON).exists():
            # Not by `save`: it raises a bare Exception for a full disk.
            (folder / JSON).write_text(self.description(), encoding="utf-8")
            # A sentencepiece model names its own.
            names = {f"{name}_token": getattr(self.hugging_face, f"{name}_token") for name in _NAMES}
            keys = {key: token for key, token in names.items() if token} | keys
        if _stem(keys.get("tokenizer_class")) != _stem(self.kind):
            keys = keys | {"tokenizer_class": self.kind}
        if keys != given:
            write_json(folder / CONFIG, keys)


def _encoded(backend: tokenizers.Tokenizer, texts: list[str], split_special_tokens: bool) -> list[list[int]]:
    # A file may have them saved, and a call of `hugging_face` may leave them on.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = split_special_tokens
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _stem(kind: str | None) -> str | None:
    """A class's name without what older versions put behind it."""
    return _VERBATIM if kind in (_VERBATIM, "TokenizersBackend") else kind and kind.removesuffix("Fast")
