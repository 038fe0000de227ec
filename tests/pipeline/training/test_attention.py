"""Documents of one window that are kept apart, against each of them alone."""

import pytest
import torch

from pipeline.families import FAMILIES
from pipeline.training.attention import within_documents

DOCUMENTS = [[0] * 5 + [1] * 1 + [2] * 10, [0] * 16, [0] * 9 + [1] * 7]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_of_a_document_are_those_of_the_document_alone(tiny_model, family, attention):
    model = tiny_model(family)
    model.set_attn_implementation(attention)
    cached = {"use_cache": False} if FAMILIES[family].objective == "clm" else {}
    documents = torch.tensor(DOCUMENTS)
    ids = torch.randint(5, 50, documents.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        apart = within_documents(FAMILIES[family], model.config, documents, torch.float64)
        together = model(input_ids=ids, **apart, **cached).logits
        for row in range(len(ids)):
            for number in documents[row].unique():
                mine = documents[row] == number
                alone = model(input_ids=ids[row : row + 1, mine], **cached).logits[0]
                # Eager attention and RMSNorm pass through float32.
                torch.testing.assert_close(together[row, mine], alone, rtol=0, atol=1e-5)
        whole = model(input_ids=ids, **cached).logits
    assert (together[0] - whole[0]).abs().max() > 1e-3, "without it the documents do see each other"
    torch.testing.assert_close(together[1], whole[1], rtol=0, atol=1e-5)


def test_mistrals_sliding_window_stays(tiny_model):
    model = tiny_model("mistral")
    model.config.sliding_window = 4
    ids = torch.arange(16)[None] * 3 % 50
    apart = within_documents(FAMILIES["mistral"], model.config, torch.tensor([[0] * 6 + [1] * 10]), torch.float64)
    with torch.no_grad():
        together = model(input_ids=ids, use_cache=False, **apart).logits[0, 6:]
        alone = model(input_ids=ids[:, 6:], use_cache=False).logits[0]
        model.config.sliding_window = None
        wide = model(input_ids=ids[:, 6:], use_cache=False).logits[0]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together - wide).abs().max() > 1e-3
