"""The corpora of the zero-shot tasks: where their files are looked for, and what they come to."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.settings import CorpusConfig
from data_prep.text.kinds import Kind, find_kind
from data_prep.text.rejects import Rejects
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest, text_digest
from pipeline.evaluation import detokenize

TEXT = "text:"
"""What a task's name begins with that is a file of one's own."""

_WHITESPACE = "words of the original text between whitespace"
_PTB = "words of the original text between whitespace, and the end of each line as one, as published perplexities count"
_LM_EVAL = "words of the original page as lm_eval counts them: len(re.split(r'\\s+', page)), its empty ends included"


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is scored without regard to any other."""

    text: str
    """As the model reads it."""
    words: int
    """Of the text before it was made ordinary: what a perplexity per word is over."""
    bytes: int
    """UTF-8, of the same."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A context, and the word that is to be guessed behind it, with the space in front."""

    context: str
    target: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """One task's examples."""

    examples: list[Document] | list[Passage]
    data: dict[str, Any]
    """What a score says of it: `source`, `digest`, `examples`, `note`."""
    settings: dict[str, Any]
    """How it was read: normalization, what is scored apart from what, detokenization."""

    def first(self, limit: int | None) -> "Corpus":
        """Return the corpus of the first examples alone."""
        if limit is None or limit >= len(self.examples):
            return self
        note = f"the first {limit} of {len(self.examples)} examples"
        return Corpus(self.examples[:limit], self.data | {"examples": limit, "note": note}, self.settings)


@dataclass(frozen=True, slots=True)
class _Published:
    """A corpus that is known by name."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    """Names below one of the folders, or below the place itself."""
    hub: tuple[str, str | None]
    """Data set and configuration on the hub."""
    revision: str | None
    column: str
    read: Callable[[Path], list[str]]
    """A local file to the hub's rows."""
    examples: Callable[[list[str]], list[Document] | list[Passage]]
    settings: dict[str, Any]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at its byte {error.start}); convert the file") from None


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


def _lambada_passages(texts: list[str]) -> list[Passage]:
    """EleutherAI's lambada_openai: the last word is what follows the last space."""
    passages = []
    for text in texts:
        context, space, word = text.rpartition(" ")
        # As there: tokens end where words do, and blanks belong to what follows them.
        passages.append(Passage(context.rstrip(), context[len(context.rstrip()) :] + space + word))
    return passages


def _json_texts(path: Path) -> list[str]:
    texts = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f'{path}: line {number} is no object with a "text"; one JSON object a line is expected') from None
        # A space behind the last word would be what is guessed in its place.
        if not isinstance(text, str) or " " not in text.strip() or text != text.rstrip():
            raise UserError(
                f"{path}: the text of line {number} has no last word behind a context, or blanks behind it; mend it"
            )
        texts.append(text)
    return texts


def _wikitext(number: int) -> _Published:
    names = (f"wikitext-{number}", f"wikitext{number}")
    return _Published(
        folders=tuple(name + suffix for name in names for suffix in ("", "-raw", "-v1", "-raw-v1")),
        files=("test.txt", "wiki.test.tokens", "wiki.test.raw"),
        hub=("EleutherAI/wikitext_document_level", f"wikitext-{number}-raw-v1"),
        revision=None,
        column="page",
        read=lambda path: pages_of(_read_text(path)),
        examples=_wikitext_pages,
        settings={"documents": "one an article", "words": _LM_EVAL, "detokenizer": "lm_eval's for WikiText"},
    )


_PUBLISHED: dict[str, _Published] = {
    "wikitext2": _wikitext(2),
    "wikitext103": _wikitext(103),
    "ptb": _Published(
        folders=("ptb", "penn", "penn-treebank", "PTB", "ptbdataset", "simple-examples/data"),
        files=("test.txt", "ptb.test.txt"),
        hub=("ptb-text-only/ptb_text_only", "penn_treebank"),
        # Its main branch is a script, which no data set may be any more.
        revision="refs/convert/parquet",
        column="sentence",
        read=lambda path: _read_text(path).splitlines(),
        examples=_ptb_text,
        settings={"documents": "the whole set, joined", "words": _PTB, "detokenizer": "Megatron-LM's for PTB"},
    ),
    "lambada": _Published(
        folders=("lambada", "lambada_openai", "lambada-openai"),
        files=("lambada_test.jsonl", "lambada_test_en.jsonl", "lambada.jsonl", "test.jsonl"),
        hub=("EleutherAI/lambada_openai", "default"),
        revision=None,
        column="text",
        read=_json_texts,
        examples=_lambada_passages,
        settings={"target": "what follows the last space, with that space (lm_eval's lambada_openai)"},
    ),
}

PUBLISHED = tuple(_PUBLISHED)
"""Tasks whose corpora are known by name."""

_AMBIGUOUS = ("test.txt", "test.jsonl")
"""Names that say nothing outside of a folder that does."""


def find_file(task: str, data: Sequence[Path] | None) -> Path | None:
    """Return the file of a task's corpus, None where `data` is None and it comes from the hub.

    Raises UserError naming what was looked for.
    """
    if task.startswith(TEXT):
        path = Path(task.removeprefix(TEXT))
        if not path.is_file():
            raise UserError(f"{path}: no such file; --task text:FILE names a text of your own")
        return path
    if data is None:
        return None
    for directory in data:
        if not directory.is_dir():
            raise UserError(f"{directory}: no such directory; name one with the corpora of the tasks")
    for directory in data:
        for path in _candidates(_PUBLISHED[task], directory):
            if path.is_file():
                return path
    known = _PUBLISHED[task]
    looked = ", ".join(f"{known.folders[0]}/{name}" for name in known.files)
    raise UserError(f"{', '.join(map(str, data))}: no file of {task} there; looked for {looked} and the like")


def _candidates(known: _Published, directory: Path) -> Iterator[Path]:
    yield from (directory / folder / name for folder in known.folders for name in known.files)
    named = directory.resolve().name in known.folders
    yield from (directory / name for name in known.files if named or name not in _AMBIGUOUS)


def read_corpus(task: str, data: Sequence[Path] | None) -> Corpus:
    """Return a task's corpus: from the files below `data`, or where that is None from the hub.

    Raises UserError naming what is missing or cannot be read.
    """
    path = find_file(task, data)
    if task.startswith(TEXT):
        return _own_text(path)
    known = _PUBLISHED[task]
    if path is None:
        rows = _from_hub(task, known)
        origin = {"source": known.hub[0], "digest": text_digest("\n".join(rows))}
    else:
        rows = known.read(path)
        origin = {"source": str(path), "digest": file_digest(path)}
    if not any(row.strip() for row in rows):
        raise UserError(f"{origin['source']}: holds no text; put the corpus of {task} there")
    examples = known.examples(rows)
    return Corpus(examples, origin | {"examples": len(examples), "note": None}, known.settings)


def _from_hub(task: str, known: _Published) -> list[str]:
    # Takes seconds to import, and local files are read without it.
    from datasets import load_dataset

    name, configuration = known.hub
    try:
        rows = load_dataset(name, configuration, split="test", revision=known.revision)
    except Exception as error:  # the library raises whatever its back ends do
        told = " ".join(str(error).split())[:200]
        raise UserError(
            f"{task}: {name} does not come from the hub ({type(error).__name__}: {told}); name a folder with its "
            "files as --data (evaluation.data in a recipe)"
        ) from None
    return list(rows[known.column])


def _own_text(path: Path) -> Corpus:
    if find_kind(path) not in (None, Kind("txt", None)):
        # Imports pyarrow, which no task's name needs.
        from data_prep.text.readers import ranges_of_file, read_range

        # However long a record is, it is scored.
        config = CorpusConfig(files=[str(path)], max_bad_records=0, max_characters=sys.maxsize >> 8, txt_documents="file")
        ranges = ranges_of_file(path, config, path.stat().st_size + 1)
        texts = [document.text for each in ranges for document in read_range(each, config, Rejects())]
    else:
        texts = [_read_text(path)]
    examples = [Document(text, len(text.split()), len(text.encode())) for text in texts if text.strip()]
    if not examples:
        raise UserError(f"{path}: holds no text; name a file that does")
    data = {"source": str(path), "digest": file_digest(path), "examples": len(examples), "note": None}
    settings = {"documents": "one a record; a file of plain text is one", "words": _WHITESPACE, "detokenizer": None}
    return Corpus(examples, data, settings)
