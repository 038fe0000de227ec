"""Write data_prep/words/english.json: the rules of spaCy's English tokenizer and sentencizer.

    python -m tests.data_prep.steps.spacy_rules

It needs spaCy, which neither the project nor its tests need.
"""

import json
import re
from pathlib import Path

FILE = Path(__file__).parents[3] / "data_prep" / "words" / "english.json"

_LICENCE = (
    "The MIT License (MIT). Copyright (C) 2016-2024 ExplosionAI GmbH, 2016 spaCy GmbH, 2015 Matthew Honnibal. "
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    'documentation files (the "Software"), to deal in the Software without restriction, including without '
    "limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the "
    "Software, and to permit persons to whom the Software is furnished to do so, subject to the following "
    "conditions: The above copyright notice and this permission notice shall be included in all copies or "
    'substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS '
    "OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE "
    "AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR "
    "OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION "
    "WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."
)


def main() -> None:
    import spacy
    from spacy.pipeline import Sentencizer
    from spacy.symbols import ORTH

    tokenizer = spacy.blank("en").tokenizer
    assert tokenizer.token_match is None and tokenizer.faster_heuristics
    expressions = {
        "prefix": tokenizer.prefix_search.__self__,
        "suffix": tokenizer.suffix_search.__self__,
        "infix": tokenizer.infix_finditer.__self__,
        "url": tokenizer.url_match.__self__,
    }
    assert all(expression.flags == re.UNICODE for expression in expressions.values())
    rules = {text: [token[ORTH] for token in tokens] for text, tokens in tokenizer.rules.items() if not text.isspace()}
    assert not any(" " in token for tokens in rules.values() for token in tokens)
    content = {
        "source": f"spaCy {spacy.__version__}, written by tests/data_prep/steps/spacy_rules.py",
        "licence": _LICENCE,
        **{name: expression.pattern for name, expression in expressions.items()},
        "exceptions": sorted(" ".join(tokens) for tokens in rules.values()),
        "sentence_ends": "".join(sorted(Sentencizer.default_punct_chars)),
    }
    FILE.write_text(json.dumps(content, ensure_ascii=True, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
