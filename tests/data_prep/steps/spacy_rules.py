"""Write data_prep/words/english.json: the rules of spaCy's English tokenizer and sentencizer.

    python -m tests.data_prep.steps.spacy_rules

It needs spaCy, which neither the project nor its tests need.
"""

import json
import re
from pathlib import Path

FILE = Path(__file__).parents[3] / "data_prep" / "words" / "english.json"


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
        "licence": json.loads(FILE.read_text(encoding="utf-8"))["licence"],
        **{name: expression.pattern for name, expression in expressions.items()},
        "exceptions": sorted(" ".join(tokens) for tokens in rules.values()),
        "sentence_ends": "".join(sorted(Sentencizer.default_punct_chars)),
    }
    FILE.write_text(json.dumps(content, ensure_ascii=True, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
