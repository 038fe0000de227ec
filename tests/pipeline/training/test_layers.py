"""Layers that are checkpointed or compiled, and their activation."""

import copy

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from pipeline.families import FAMILIES, ActiveLayers
from pipeline.flops.activations import activation_bytes
from pipeline.training.layers import prepare_model
from pipeline.training.loop.running import running
from pipeline.training.losses import summed_loss
from tests.families import WITH_A_MIXTURE
from tests.saved import saved_bytes

IDS = torch.randint(5, 50, (3, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", WITH_A_MIXTURE)
def test_checkpointed_layers_keep_their_input_alone_and_learn_the_same(tiny_model, family):
    table, extra = FAMILIES[family], {"use_cache": False} if FAMILIES[family].objective == "clm" else {}
    kept, gradients = [], []
    for checkpointed in (False, True):
        model = tiny_model(family).train()
        prepare_model(model, table, activation_checkpointing=checkpointed, compile=False)

        def forward(model=model):
            return summed_loss(model(input_ids=IDS, **extra).logits, IDS)

        layers = saved_bytes(model, forward)
        with running(model, table, ActiveLayers(0, frozenset(), embeddings=True, head=True)):
            kept.append(layers - saved_bytes(model, forward))
        forward().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    hidden = IDS.numel() * 32 * 8
    assert kept[1] == 3 * hidden < kept[0] / 10
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


SIZES = {"vocab_size": 50, "max_position_embeddings": 16, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob")


@pytest.fixture(params=[(GPT2LMHeadModel, GPT2Config), (BertForMaskedLM, BertConfig)], ids=["gpt2", "bert"])
def published(request):
    """Return a model with the activation of published GPT-2s, in float64, and its family's table."""
    torch.manual_seed(3)
    model_class, config_class = request.param
    activation = {"activation_function": "gelu_new", "hidden_act": "gelu_new"}
    config = config_class(**SIZES, **activation, **dict.fromkeys(DROPOUTS, 0.0), initializer_range=0.5)
    config._attn_implementation = "eager"
    return model_class(config).double(), FAMILIES[config.model_type]


def test_gelu_new_computes_the_same_in_one_kernel(published):
    expected, table = published
    model = copy.deepcopy(expected)
    prepare_model(model, table, activation_checkpointing=False, compile=False)
    results = []
    for each in (expected, model):
        logits = each(input_ids=IDS).logits
        logits.square().sum().backward()
        results.append([logits, *(parameter.grad for parameter in each.parameters())])
    for one, other in zip(*results, strict=True):
        # float64, in another order.
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    assert model.config.to_dict() == expected.config.to_dict() and "gelu_new" in model.config.to_dict().values()


def test_gelu_new_keeps_its_input_alone(published):
    model, table = published
    prepare_model(model, table, activation_checkpointing=False, compile=False)
    kept = saved_bytes(model, lambda: summed_loss(model(input_ids=IDS).logits, IDS))
    size = {"scored": IDS.numel(), "dtype": torch.float64}
    # Masks are not counted.
    assert activation_bytes(table, model.config, 16, IDS.numel(), **size) == pytest.approx(kept, rel=0.03)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", WITH_A_MIXTURE)
def test_the_row_of_the_padding_token_learns_like_any_other(tiny_model, family, tied):
    """Gradients against embeddings that torch looks up by index, which knows nothing of padding."""
    table, extra = FAMILIES[family], {"use_cache": False} if FAMILIES[family].objective == "clm" else {}
    # RoBERTa's is no token of a text; its position row is one that no text uses either.
    padding = 1 if family == "roberta" else 5
    config = copy.deepcopy(tiny_model(family, tied=tied).config)
    config.pad_token_id = padding
    # The same ids end documents: one in eight.
    ids = torch.where(torch.arange(16) % 8 == 7, 5, IDS)
    torch.manual_seed(3)
    model = table.model_class(config).double().train()
    plain = copy.deepcopy(model)
    frozen = copy.deepcopy(model)
    prepare_model(model, table, activation_checkpointing=False, compile=False)
    summed_loss(model(input_ids=ids, **extra).logits, ids).backward()
    words = plain.get_input_embeddings().weight
    # Gemma multiplies what it looks up, and not what it is given.
    scale = table.graph(config).stack.embeddings[0].scale
    summed_loss(plain(inputs_embeds=scale * words[ids], **extra).logits, ids).backward()
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12, msg=name)
    assert model.config.pad_token_id == padding
    if family in ("gpt2", "roberta", "gpt_neox"):
        return
    # What transformers makes of it by itself, so that the comparison could fail.
    summed_loss(frozen(input_ids=ids, **extra).logits, ids).backward()
    row = frozen.get_input_embeddings().weight.grad[padding]
    assert (row - words.grad[padding]).abs().max() > 1e-3 and (tied or not row.any())
