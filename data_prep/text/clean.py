"""What of a document is kept."""

import re
import unicodedata

from data_prep.errors import UserError
from data_prep.settings import CorpusConfig
from data_prep.text.language import known_languages, language
from data_prep.text.rejects import OTHER_LANGUAGE, TOO_LONG, TOO_SHORT

# Over UTF-8's bytes: deleting there is ten times as fast as an expression over characters.
_CONTROL = bytes([*range(9), *range(14, 32), 127])
_WIDE_CONTROL = re.compile(rb"\xc2[\x80-\x9f]|\xef\xbb\xbf")
"""U+0080 to U+009F, and U+FEFF, which opens a file or stands where two were joined."""


def clean(text: str, form: str = "NFC") -> str:
    """Return `text` in a normal form, with Unix line ends, without control characters or outer white space."""
    # Some controls end a line, as U+0085 and the form feed: were they removed, the words on both sides would join.
    text = "\n".join(text.splitlines())
    # A lone surrogate is no character; it becomes a question mark.
    content = text.encode("utf-8", "replace").translate(None, _CONTROL)
    if b"\xc2" in content or b"\xef\xbb\xbf" in content:
        content = _WIDE_CONTROL.sub(b"", content)
    return unicodedata.normalize(form, content.decode()).strip()


class Cleaner:
    """A corpus's rules; raises UserError where they name a language that cannot be told."""

    def __init__(self, corpus: CorpusConfig) -> None:
        self._corpus = corpus
        # One by one: joined, a rule's flags and group numbers would be others.
        self._boilerplate = [re.compile(rule) for rule in corpus.boilerplate]
        for code in corpus.languages:
            if code not in known_languages():
                known = " ".join(sorted(known_languages()))
                raise UserError(f"corpora: {corpus.name}: languages: {code!r} is not among those that can be told: {known}")

    def __call__(self, text: str) -> tuple[str, str | None]:
        """Return (the cleaned text, why it is dropped or None)."""
        corpus = self._corpus
        if len(text) > corpus.max_characters:
            return "", TOO_LONG
        text = clean(text, corpus.unicode)
        if self._boilerplate:
            lines = text.split("\n")
            text = "\n".join(line for line in lines if not any(rule.search(line) for rule in self._boilerplate)).strip()
        if self.is_short(text):
            return text, TOO_SHORT
        if corpus.languages and language(text) not in corpus.languages:
            return text, OTHER_LANGUAGE
        return text, None

    def is_short(self, text: str) -> bool:
        """Whether a cleaned text is shorter than is kept."""
        length = len(text) if self._corpus.length_unit == "characters" else len(text.split())
        return length < max(self._corpus.min_length, 1)
