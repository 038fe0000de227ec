"""What is done about documents that share passages with evaluation sets."""

from collections import Counter
from typing import Any, Literal

from data_prep.decontamination.passages import Passage, Passages
from data_prep.text.document import Document

EXAMPLES = 5
"""Passages of each set that are kept to be shown."""
_SHOWN_CHARACTERS = 200


class Removal:
    """Takes documents or passages out, and counts them by set."""

    def __init__(self, passages: Passages, remove: Literal["document", "span", "nothing"]) -> None:
        self._passages, self._remove = passages, remove
        self._documents: Counter[str] = Counter()
        self._examples: dict[str, list[dict[str, str]]] = {}

    def __call__(self, document: Document) -> bool:
        """Take what is to go out of a document; return whether it goes as a whole."""
        passages = self._passages(document.text)
        for name in dict.fromkeys(name for passage in passages for name in passage.sets):
            self._documents[name] += 1
            if self._documents[name] <= EXAMPLES:
                first = next(passage for passage in passages if name in passage.sets)
                shown = document.text[first.begin : min(first.stop, first.begin + _SHOWN_CHARACTERS)]
                self._examples.setdefault(name, []).append({"where": document.where, "passage": shown})
        if self._remove == "span":
            document.text = _without(document.text, passages)
        return self._remove == "document" and bool(passages)

    def facts(self) -> dict[str, Any]:
        """Return what is recorded: documents with a passage of each set (one may count for several), examples, the sets."""
        return {
            "contaminated": dict(self._documents),
            "passages": self._examples,
            "evaluation_sets": self._passages.sizes,
        }


def _without(text: str, passages: list[Passage]) -> str:
    """A text whose passages are cut out; a line ends where one was, so that words which it separated do not meet."""
    if not passages:
        return text
    begins = [0, *(passage.stop for passage in passages)]
    stops = [*(passage.begin for passage in passages), len(text)]
    kept = (text[begin:stop].strip() for begin, stop in zip(begins, stops, strict=True))
    return "\n".join(part for part in kept if part)
