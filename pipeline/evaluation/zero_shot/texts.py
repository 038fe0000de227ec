"""Texts whose perplexity is measured: WikiText, Penn Treebank, and any file of one's own."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from data_prep.settings import CorpusConfig
from data_prep.text.kinds import Kind, find_kind
from data_prep.text.rejects import Rejects
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest
from pipeline.common.progress import Meter
from pipeline.evaluation.rows import Row, Sums, causal_rows, masked_rows, perplexity
from pipeline.evaluation.zero_shot import detokenize
from pipeline.evaluation.zero_shot.task import Corpus, Posed, Published, Reader, read_text

TEXT = "text:"
"""What a task's name begins with that is a file of one's own."""

_WHITESPACE = "words of the original text between whitespace"
_PTB = "words of the original text between whitespace, and the end of each line as one, as published perplexities count"
_LM_EVAL = "words of the original page as lm_eval counts them: len(re.split(r'\\s+', page)), its empty ends included"

_ENCODED_AT_ONCE = 256
"""Documents."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is scored without regard to any other."""

    text: str
    """As the model reads it."""
    words: int
    """Of the text before it was made ordinary: what a perplexity per word is over."""
    bytes: int
    """UTF-8, of the same."""


class Text:
    """A task whose examples are documents: perplexity, or pseudo-perplexity of a masked model."""

    def pose(self, corpus: Corpus[Document], reader: Reader) -> Posed:
        """Return the windows over all documents."""
        documents, encoder = _encoded(corpus, reader), reader.encoder
        settings: dict[str, object] = {"window": reader.window, "stride": reader.stride}
        data = {"words": sum(document.words for document in corpus.examples)}
        if reader.masked:
            normalization = "pseudo_perplexity: a token; each masked in turn, all others of its window seen"
            settings |= {"every": reader.every, "normalization": normalization}
            return Posed(_masked_document_rows(documents, reader), _pseudo_perplexity, settings, data)
        normalization = "word_, byte_, bits_per_byte: of the original text; token_: of what the model reads"
        settings |= {"prefix": encoder.tokenizer.token(encoder.prefix), "normalization": normalization}
        rows = [row for tokens in documents for row in causal_rows(tokens, encoder.prefix, reader.window, reader.stride)]
        return Posed(rows, lambda sums: _perplexities(corpus, sums), settings, data)


def _encoded(corpus: Corpus[Document], reader: Reader) -> Iterator[list[int]]:
    """The ids of each of a corpus's documents."""
    with Meter(f"{reader.title}: tokenizing", sum(document.bytes for document in corpus.examples)) as meter:
        for begin in range(0, len(corpus.examples), _ENCODED_AT_ONCE):
            documents = corpus.examples[begin : begin + _ENCODED_AT_ONCE]
            yield from reader.encoder.encode([document.text for document in documents])
            meter.advance(sum(document.bytes for document in documents))


def _masked_document_rows(documents: Iterator[list[int]], reader: Reader) -> list[Row]:
    around = reader.encoder.around()
    rows: list[Row] = []
    seen = 0
    for tokens in documents:
        # Counted through all documents: of many short ones, too, every so-many-th token is scored.
        rows += masked_rows(tokens, *around, reader.window, reader.stride, reader.every, -seen % reader.every)
        seen += len(tokens)
    return rows


def _pseudo_perplexity(sums: Sums) -> dict[str, float]:
    return {"pseudo_perplexity": perplexity(-sums.log_likelihood / sums.tokens), "accuracy": sums.right / sums.tokens}


def _perplexities(corpus: Corpus[Document], sums: Sums) -> dict[str, float]:
    words = sum(document.words for document in corpus.examples)
    size = sum(document.bytes for document in corpus.examples)
    return {
        "word_perplexity": perplexity(-sums.log_likelihood / words),
        "token_perplexity": perplexity(-sums.log_likelihood / sums.tokens),
        "byte_perplexity": perplexity(-sums.log_likelihood / size),
        "bits_per_byte": -sums.log_likelihood / size / math.log(2),
    }


class PublishedText(Text, Published[Document]):
    """A text that is known by name."""


@dataclass(frozen=True)
class OwnText(Text):
    """A file of one's own, `text:FILE`; it lies where its name says, not in the folders that are given."""

    name: str

    causal_only: ClassVar[bool] = False

    def find(self, data: Sequence[Path] | None) -> Path:
        """Return the file; raises UserError where there is none."""
        path = Path(self.name.removeprefix(TEXT))
        if not path.is_file():
            raise UserError(f"{path}: no such file; --task text:FILE names a text of your own")
        return path

    def read(self, data: Sequence[Path] | None) -> Corpus[Document]:
        """Return the file's documents, as data preparation reads them; raises UserError where it holds no text."""
        path = self.find(data)
        if find_kind(path) not in (None, Kind("txt", None)):
            # Imports pyarrow, which no task's name needs.
            from data_prep.text.readers import ranges_of_file, read_range

            # However long a record is, it is scored.
            config = CorpusConfig(files=[str(path)], max_bad_records=0, max_characters=sys.maxsize >> 8, txt_documents="file")
            ranges = ranges_of_file(path, config, path.stat().st_size + 1)
            texts = [document.text for each in ranges for document in read_range(each, config, Rejects())]
        else:
            texts = [read_text(path)]
        examples = [Document(text, len(text.split()), len(text.encode())) for text in texts if text.strip()]
        if not examples:
            raise UserError(f"{path}: holds no text; name a file that does")
        record = {"source": str(path), "digest": file_digest(path), "examples": len(examples), "note": None}
        settings = {"documents": "one a record; a file of plain text is one", "words": _WHITESPACE, "detokenizer": None}
        return Corpus(examples, record, settings)


def pages_of(text: str) -> list[str]:
    """Cut WikiText into articles at its headings of the first level, as the hub's wikitext_document_level is cut."""
    pages: list[str] = []
    page: list[str] = []
    for line in text.split("\n"):
        heading = line.replace("= = =", "===").replace("= =", "==").strip()
        if heading.startswith("= ") and heading.endswith(" ="):
            pages.append("\n".join(page))
            page = []
        page.append(line)
    pages.append("\n".join(page))
    return [page for page in pages if page.strip()]


def _wikitext_pages(pages: list[str]) -> list[Document]:
    return [Document(detokenize.wikitext(page), len(re.split(r"\s+", page)), len(page.encode())) for page in pages]


def _ptb_text(lines: list[str]) -> list[Document]:
    sentences = [line.strip() for line in lines if line.strip()]
    text = "\n".join(sentences) + "\n"
    # The ends of lines are scored as well, and are among the 82,430 of the test part that figures are given over.
    return [Document(detokenize.ptb(text), len(text.split()) + len(sentences), len(text.encode()))]


def _wikitext(number: int) -> PublishedText:
    names = (f"wikitext-{number}", f"wikitext{number}")
    return PublishedText(
        f"wikitext{number}",
        folders=tuple(name + suffix for name in names for suffix in ("", "-raw", "-v1", "-raw-v1")),
        files=("test.txt", "wiki.test.tokens", "wiki.test.raw"),
        hub=("EleutherAI/wikitext_document_level", f"wikitext-{number}-raw-v1"),
        column="page",
        read_file=lambda path: pages_of(read_text(path)),
        examples=_wikitext_pages,
        settings={"documents": "one an article", "words": _LM_EVAL, "detokenizer": "lm_eval's for WikiText"},
    )


TEXTS = (
    _wikitext(2),
    _wikitext(103),
    PublishedText(
        "ptb",
        folders=("ptb", "penn", "penn-treebank", "PTB", "ptbdataset", "simple-examples/data"),
        files=("test.txt", "ptb.test.txt"),
        hub=("ptb-text-only/ptb_text_only", "penn_treebank"),
        # Its main branch is a script, which no data set may be any more.
        revision="refs/convert/parquet",
        column="sentence",
        read_file=lambda path: read_text(path).splitlines(),
        examples=_ptb_text,
        settings={"documents": "the whole set, joined", "words": _PTB, "detokenizer": "Megatron-LM's for PTB"},
    ),
)
"""Those that are known by name."""
