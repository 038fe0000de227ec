"""What datatrove makes of `documents()`, recorded in reference.json, for tests without datatrove and spaCy.

    python -m tests.data_prep.steps.reference

It needs datatrove, spacy and nltk, which neither the project nor its tests need.
"""

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.data_prep.steps.documents import documents

FILE = Path(__file__).with_name("reference.json")

_NO_LINES = dict.fromkeys(("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac"))
_NO_REPETITION = {**_NO_LINES, "top_n_grams": {}, "dup_n_grams": {}}
_C4_REST = {"filter_no_terminal_punct": False, "filter_curly_bracket": False, "filter_lorem_ipsum": False}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("gopher_repetition", "gopher_quality", "fineweb", "c4")},
    **{f"top {n}": ("gopher_repetition", {**_NO_REPETITION, "top_n_grams": {n: share}}) for n, share in ((2, 0.04), (4, 0.03))},
    **{f"duplicate {n}": ("gopher_repetition", {**_NO_REPETITION, "dup_n_grams": {n: 0.02}}) for n in (5, 7, 10)},
    "short words": ("gopher_quality", {"min_doc_words": None, "min_avg_word_length": 4.4}),
    "long words": ("gopher_quality", {"min_doc_words": None, "max_avg_word_length": 4.4}),
    "many words": ("gopher_quality", {"min_doc_words": 10, "max_doc_words": 100}),
    "symbols": ("gopher_quality", {"min_doc_words": None, "max_symbol_word_ratio": 0.02, "max_avg_word_length": 100}),
    "bullets": ("gopher_quality", {"min_doc_words": None, "max_bullet_lines_ratio": 0.2, "max_symbol_word_ratio": 0.9}),
    "stop words": ("gopher_quality", {"min_doc_words": None, "min_alpha_words_ratio": 0.2, "min_stop_words": 7}),
    "line ends": ("fineweb", {"line_punct_exclude_zero": True, "char_duplicates_ratio": 0.1, "short_line_thr": 1.0}),
    "words per line": ("fineweb", {"line_punct_thr": 0.0, "char_duplicates_ratio": 0.5, "new_line_ratio": 0.1}),
    "any line": ("c4", {**_C4_REST, "min_num_sentences": 20}),
    "citations": ("c4", {**_C4_REST, "min_num_sentences": 1, "min_words_per_line": 1, "remove_citations": False}),
}
"""By name: a step, and its options."""

REASONS = {
    "dup_para_frac": "duplicate paragraphs",
    "dup_para_char_frac": "characters in duplicate paragraphs",
    "dup_line_frac": "duplicate lines",
    "dup_line_char_frac": "characters in duplicate lines",
    **{f"top_{n}_gram": f"top {n}-gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"duplicate {n}-grams" for n in range(5, 11)},
    "gopher_short_doc": "few words",
    "gopher_long_doc": "many words",
    "gopher_below_avg_threshold": "short words",
    "gopher_above_avg_threshold": "long words",
    "gopher_too_many_hashes": "number signs",
    "gopher_too_many_ellipsis": "ellipses",
    "gopher_too_many_bullets": "lines with bullets",
    "gopher_too_many_end_ellipsis": "lines that end with an ellipsis",
    "gopher_below_alpha_threshold": "words without a letter",
    "gopher_enough_stop_words": "few stop words",
    "empty": "empty",
    "line_punct_ratio": "lines without end punctuation",
    "short_line_ratio": "short lines",
    "char_dup_ratio": "characters in duplicate lines",
    "list_ratio": "few words per line",
    "lorem_ipsum": "lorem ipsum",
    "curly_bracket": "curly bracket",
    "too_few_sentences": "few sentences",
}
"""datatrove's, and ours."""


def short_digest(content: Any) -> str:
    """Return 16 bits of a hash of `content`."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:4]


def main() -> None:
    """Write reference.json."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters.pii import PIIFormatter
    from datatrove.utils.text import split_into_words

    filters: dict[str, Callable] = {
        "gopher_repetition": GopherRepetitionFilter,
        "gopher_quality": GopherQualityFilter,
        "fineweb": FineWebQualityFilter,
        "c4": C4QualityFilter,
    }
    texts = documents()
    cases = {}
    for case, (step, options) in CASES.items():
        made = filters[step](**_their_options(options))
        verdicts, digests = [], []
        for text in texts:
            document = Document(text=text, id="")
            verdict = made.filter(document)
            verdicts.append("" if verdict is True else verdict[1])
            digests.append(short_digest(document.text))
        reasons = sorted(set(verdicts))
        cases[case] = {"reasons": reasons, "verdicts": "".join(chr(ord("a") + reasons.index(verdict)) for verdict in verdicts)}
        if step == "c4":
            cases[case]["texts"] = "".join(digests)
    content = {
        "versions": {name: version(name) for name in ("datatrove", "spacy")},
        "cases": cases,
        "words": "".join(short_digest(list(split_into_words(text))) for text in texts),
        # A formatter goes on in its list of replacements from document to document, so each document has its own.
        "masked": "".join(short_digest(PIIFormatter().format(text)) for text in texts),
        "all_ips_masked": "".join(short_digest(PIIFormatter(only_remove_public_ips=False).format(text)) for text in texts),
    }
    FILE.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


def _their_options(options: dict[str, Any]) -> dict[str, Any]:
    theirs = {name: tuple(value.items()) if isinstance(value, dict) else value for name, value in options.items()}
    if "min_alpha_words_ratio" in theirs:
        theirs["max_non_alpha_words_ratio"] = theirs.pop("min_alpha_words_ratio")
    return theirs


if __name__ == "__main__":
    main()
