"""Active layers of a model against the same written out: truncated stacks, inputs cut by hand, every position scored."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForPreTraining

from pipeline.data.objectives import IGNORED
from pipeline.families import FAMILIES, PAIR_FAMILIES, ActiveLayers
from pipeline.training.loop.running import draw_depths, running, scoring
from pipeline.training.losses import summed_loss
from tests.families import DENSE
from tests.saved import saved_bytes

LAYERS, VOCAB = 4, 50
IDS = torch.randint(5, VOCAB, (3, 16), generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(5, VOCAB, (3, 16), generator=torch.Generator().manual_seed(2))
MASKED = LABELS.where(torch.rand(3, 16, generator=torch.Generator().manual_seed(3)) < 0.3, IGNORED)
ENCODERS = [name for name, family in FAMILIES.items() if family.objective == "mlm"]
ACTIVE = {
    "whole": ActiveLayers.whole(LAYERS),
    "top of a sub-model": ActiveLayers.top(3, 1),
    "all of a sub-model's layers": ActiveLayers.top(2, 2),
    "layers apart": ActiveLayers(LAYERS, frozenset({1, 3}), embeddings=False, head=False),
    "head alone": ActiveLayers(LAYERS, frozenset(), embeddings=False, head=True),
    "embeddings and head": ActiveLayers(LAYERS, frozenset(), embeddings=True, head=True),
}


def learn(model, family, active: ActiveLayers) -> None:
    """Let the parameters of a active learn, and no others."""
    tensors = family.graph(model.config).tensors()
    for name, parameter in model.named_parameters():
        group, layer = tensors[name].group, tensors[name].layer
        parameter.requires_grad_({"embeddings": active.embeddings, "head": active.head}.get(group, layer in active.layers))


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("active", ACTIVE.values(), ids=ACTIVE)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "qwen3"])
def test_active_layers_learns_as_a_truncated_model_whose_input_is_cut(tiny_model, family, tied, active):
    model, table = tiny_model(family, tied=tied, layers=LAYERS), FAMILIES[family]
    expected = copy.deepcopy(model)
    for each in (model, expected):
        learn(each, table, active)
    with running(model, table, active):
        loss = summed_loss(model(input_ids=IDS).logits, LABELS)
    loss.backward()

    layers = expected.get_submodule(table.layers)
    expected.set_submodule(table.layers, nn.ModuleList(list(layers)[: active.depth]))
    words = expected.get_input_embeddings()(IDS)
    # RoBERTa counts positions from the ids, which tell of padding.
    positions = {"position_ids": torch.arange(16)[None] + table.position_offset} if table.objective == "mlm" else {}
    logits = expected(inputs_embeds=words if active.embeddings else words.detach(), **positions).logits
    written_out = nn.functional.cross_entropy(logits.flatten(0, 1), LABELS.flatten(), reduction="sum")
    written_out.backward()
    expected.set_submodule(table.layers, layers)

    # Our loss and its gradient by the logits are float32, all before it is float64: sums of 48 values with errors of 2^-24
    # each, and of gradients up to 15.
    assert loss.item() == pytest.approx(written_out.item(), rel=1e-6)
    theirs = gradients(expected)
    assert gradients(model).keys() == theirs.keys() and theirs
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", DENSE)
def test_layers_below_what_learns_keep_no_activations(tiny_model, family):
    model, table = tiny_model(family, layers=8), FAMILIES[family]

    def kept(active: ActiveLayers) -> int:
        learn(model, table, active)
        with running(model, table, active):
            return saved_bytes(model, lambda: summed_loss(model(input_ids=IDS).logits, LABELS))

    head = ActiveLayers(8, frozenset(), embeddings=False, head=True)
    assert (
        kept(ActiveLayers.top(8, 2))
        == kept(ActiveLayers.top(4, 2))
        < kept(ActiveLayers.top(8, 4))
        < kept(ActiveLayers.whole(8))
    )
    assert kept(head) == kept(ActiveLayers(2, frozenset(), embeddings=False, head=True)) < kept(ActiveLayers.top(8, 2))


def test_active_layers_leaves_the_model_as_it_was(tiny_model):
    model, table = tiny_model("gpt2", layers=LAYERS), FAMILIES["gpt2"]
    before = model(input_ids=IDS).logits
    with pytest.raises(RuntimeError), running(model, table, ActiveLayers.top(2, 1)):
        assert not torch.equal(model(input_ids=IDS).logits, before)
        model.transformer.h[1].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError))
        model(input_ids=IDS)
    model.transformer.h[1]._forward_pre_hooks.clear()
    assert torch.is_grad_enabled()
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", ENCODERS)
def test_masked_positions_alone_give_the_loss_and_the_gradients_of_all(tiny_model, family, tied):
    model, table = tiny_model(family, tied=tied), FAMILIES[family]
    expected = copy.deepcopy(model)
    every = expected(input_ids=IDS).logits
    of_all = nn.functional.cross_entropy(every.flatten(0, 1), MASKED.flatten(), ignore_index=IGNORED, reduction="sum")
    of_all.backward()
    with scoring(model, table, MASKED) as labels:
        logits = model(input_ids=IDS).logits
    assert logits.shape == (len(labels), VOCAB)
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    loss.backward()
    # float64 sums in another order.
    assert loss.item() == pytest.approx(of_all.item(), rel=1e-12)
    theirs = gradients(expected)
    assert gradients(model).keys() == theirs.keys()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=1e-11)
    assert model(input_ids=IDS).logits.shape == every.shape


@pytest.mark.parametrize("family", ENCODERS)
def test_nothing_scored_is_a_loss_of_nothing(tiny_model, family):
    model = tiny_model(family)
    with scoring(model, FAMILIES[family], torch.full_like(LABELS, IGNORED)) as labels:
        loss = summed_loss(model(input_ids=IDS).logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(model).values()) and gradients(model)


def test_a_causal_model_scores_every_position(tiny_model):
    model = tiny_model("gpt2")
    with scoring(model, FAMILIES["gpt2"], LABELS) as labels:
        assert model(input_ids=IDS).logits.shape == (*labels.shape, VOCAB)
    assert labels is LABELS


def test_sub_models_are_drawn_uniformly_by_step():
    depths = draw_depths(12, 3, (1, "a"), 0, 4000)
    counts = Counter(depths.tolist())
    assert counts.keys() == {3, 6, 9, 12}
    # Each count has mean 1000 and deviation 27.
    assert all(abs(count - 1000) < 140 for count in counts.values())
    assert [draw_depths(12, 3, (1, "a"), step, 1)[0] for step in range(50)] == depths[:50].tolist()
    assert draw_depths(12, 3, (1, "b"), 0, 50).tolist() != depths[:50].tolist()


@pytest.mark.parametrize("active", [ActiveLayers.top(2, 1), ACTIVE["head alone"]], ids=["top of a sub-model", "head alone"])
def test_a_head_on_pairs_learns_with_any_active_layers_as_in_the_whole_model(active):
    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model, table = BertForPreTraining(config).double(), PAIR_FAMILIES["bert"]
    expected = copy.deepcopy(model)
    judged = torch.tensor([0, 1, 1])

    def loss(each):
        outputs = each(input_ids=IDS)
        return summed_loss(outputs.prediction_logits, LABELS) + summed_loss(outputs.seq_relationship_logits, judged)

    learn(model, table, active)
    with running(model, table, active):
        loss(model).backward()
    expected.bert.encoder.layer = expected.bert.encoder.layer[: active.depth]
    loss(expected).backward()
    theirs = gradients(expected)
    for name in ("bert.pooler.dense.weight", "cls.seq_relationship.weight", "cls.predictions.transform.dense.weight"):
        torch.testing.assert_close(gradients(model)[name], theirs[name], rtol=0, atol=1e-12)
