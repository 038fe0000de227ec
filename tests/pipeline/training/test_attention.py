"""Documents of one window that are kept apart, against each of them alone."""

import threading

import pytest
import torch
from transformers import masking_utils

from pipeline.families import FAMILIES, ActiveLayers
from pipeline.training.attention import packing_known, within_documents
from pipeline.training.layers import prepare_model
from pipeline.training.loop.running import running
from pipeline.training.losses import summed_loss
from tests.families import WITH_A_MIXTURE

DOCUMENTS = [[0] * 5 + [1] * 1 + [2] * 10, [0] * 16, [0] * 9 + [1] * 7]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", WITH_A_MIXTURE)
def test_the_logits_of_a_document_are_those_of_the_document_alone(tiny_model, family, attention):
    model = tiny_model(family)
    if attention == "sdpa" and not FAMILIES[family].fused_attention:
        pytest.skip(f"{family} is computed by eager attention alone")
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


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_a_section_learns_from_documents_as_from_each_alone(tiny_model, family, attention, checkpointed):
    table, active = FAMILIES[family], ActiveLayers.top(3, 2)
    cached = {"use_cache": False} if table.objective == "clm" else {}
    documents = torch.tensor(DOCUMENTS)
    ids, labels = torch.randint(5, 50, (2, *documents.shape), generator=torch.Generator().manual_seed(1))

    def prepared():
        model = tiny_model(family, layers=4).train()
        model.set_attn_implementation(attention)
        return model

    together, alone = prepared(), prepared()
    prepare_model(together, table, activation_checkpointing=checkpointed, compile=False)
    with running(together, table, active):
        apart = within_documents(table, together.config, documents, torch.float64)
        summed_loss(together(input_ids=ids, **apart, **cached).logits, labels).backward()
    for row in range(len(ids)):
        for number in documents[row].unique():
            mine = documents[row] == number
            with running(alone, table, active):
                loss = summed_loss(alone(input_ids=ids[row : row + 1, mine], **cached).logits, labels[row : row + 1, mine])
            loss.backward()
    for (name, one), other in zip(together.named_parameters(), alone.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            # Eager attention, RMSNorm and the loss pass through float32.
            torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=2e-5 * (1 + other.grad.abs().max().item()))


def test_documents_that_are_known_are_those_of_their_own_thread():
    """The source's comparison runs a model in a thread while steps run."""
    documents, seen = torch.tensor([[0, 0, 1, 1]]), []
    positions = torch.arange(4)[None]
    with packing_known(documents):
        assert masking_utils.find_packed_sequence_indices(positions) is documents
        other = threading.Thread(target=lambda: seen.append(masking_utils.find_packed_sequence_indices(positions)))
        other.start()
        other.join()
    assert seen[0] is not documents
