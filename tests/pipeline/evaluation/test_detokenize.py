"""Published corpora as ordinary text."""

import pytest

from pipeline.evaluation.zero_shot import detokenize
from pipeline.evaluation.zero_shot.texts import pages_of
from tests.pipeline.evaluation.conftest import SHARED, wikitext

WIKITEXT_2 = SHARED / "eval" / "wikitext-2" / "test.txt"


def theirs(page: str) -> str:
    """What lm_eval makes of a page."""
    module = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    return module.wikitext_detokenizer({"page": page})


def test_wikitext_by_hand():
    page = ' = = A heading = = \n He paid 1 @,@ 000 @-@ odd ( or so ) , <unk> said : " 2 @.@ 5 \u00b0 C " , the dog \'s . \n'
    assert detokenize.wikitext(page) == ' == A heading ==\nHe paid 1,000-odd (or so), <unk> said: "2.5\u00b0C", the dog\'s.\n'


def test_wikitext_is_lm_evals_to_the_character():
    pages = pages_of(wikitext(30))
    assert [detokenize.wikitext(page) for page in pages] == [theirs(page) for page in pages]


@pytest.mark.skipif(not WIKITEXT_2.is_file(), reason="needs ../shared/data/eval/wikitext-2")
def test_all_of_wikitext_2_is_lm_evals_to_the_character():
    pages = pages_of(WIKITEXT_2.read_text(encoding="utf-8"))
    # As many as EleutherAI/wikitext_document_level has.
    assert len(pages) == 62
    assert [detokenize.wikitext(page) for page in pages] == [theirs(page) for page in pages]


def test_ptb_by_hand():
    text = " no it was n't <unk> says mr. smith 's aunt \n they paid $ N for N of the NBC shares \n"
    assert detokenize.ptb(text) == "no it wasn't <unk> says mr. smith's aunt\nthey paid $1 for 1 of the NBC shares\n"
