"""The output matrix rounded up, and run with the loss: the losses and gradients of the plain model in every family."""

import copy
import itertools

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.data.objectives import IGNORED
from pipeline.families import FAMILIES
from pipeline.training import head
from pipeline.training.layers import prepare_model
from pipeline.training.loop.running import scoring
from pipeline.training.losses import logits_of, summed_losses
from tests.families import DENSE

VOCAB = 50
IDS = torch.randint(5, VOCAB, (3, 16), generator=torch.Generator().manual_seed(1))
CHOSEN = torch.rand(IDS.shape, generator=torch.Generator().manual_seed(2)) < 0.4
WAYS = {
    "padded": {"make_vocab_size_divisible_by": 64},
    "with the loss": {"fused_linear_cross_entropy": True},
    "both": {"fused_linear_cross_entropy": True, "make_vocab_size_divisible_by": 8},
}
ROWS = {"one row at a time": 1, "chunks that do not divide the rows": 7, "one chunk": 10**6}
USUAL = {"padded": "one chunk", "with the loss": "chunks that do not divide the rows", "both": "one row at a time"}
UNCAPPED = [family for family in DENSE if family != "gemma2"]


def cases():
    """Every way in every family, and in three of them by chunks of every size; in the others that runs where all is tested."""
    for family, way, rows in itertools.product(UNCAPPED, WAYS, ROWS):
        # A matrix that is only padded has no chunks.
        if way != "padded" or rows == USUAL[way]:
            few = family in ("gpt2", "bert", "llama") or rows == USUAL[way]
            marks = () if few else pytest.mark.full
            yield pytest.param(family, WAYS[way], ROWS[rows], id=f"{family}, {way}, {rows}", marks=marks)


def labels_of(family):
    """Labels of all positions but some, or of the few that a masked model scores."""
    return torch.where((FAMILIES[family].objective == "clm") != CHOSEN, IDS, IGNORED)


def loss_of(model, family, labels=None):
    table, extra = FAMILIES[family], {"use_cache": False} if FAMILIES[family].objective == "clm" else {}
    with scoring(model, table, labels_of(family) if labels is None else labels) as targets:
        logits = logits_of(table, model(input_ids=IDS, **extra))
    return logits, summed_losses(logits, targets, None).tokens


def gradients_of(model, family, scale=1.0, labels=None):
    logits, loss = loss_of(model, family, labels)
    (loss * scale).backward()
    return logits, loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def made(tiny_model, family, way, tied=True, dtype=torch.float64):
    """Return the plain model, and the same prepared."""
    plain = tiny_model(family, tied=tied).to(dtype).train()
    other = copy.deepcopy(plain)
    other.tie_weights()
    prepare_model(plain, FAMILIES[family])
    prepare_model(other, FAMILIES[family], **way)
    return plain, other


@pytest.mark.parametrize(("family", "way", "rows"), [*cases()])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_losses_and_gradients_are_those_of_the_plain_model(tiny_model, monkeypatch, family, tied, way, rows):
    monkeypatch.setattr(head, "_CHUNK", rows * VOCAB)
    plain, other = made(tiny_model, family, way, tied)
    _, expected, gradients = gradients_of(plain, family)
    logits, loss, same = gradients_of(other, family)
    # The loss is summed in fp32.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    if "fused_linear_cross_entropy" in way:
        assert logits.tokens.dim() == 0
    else:
        assert logits.tokens.shape[-1] == 64 and logits.tokens[..., VOCAB:].isneginf().all()
    assert same.keys() == gradients.keys()
    for name, gradient in gradients.items():
        if gradient is None:
            # An untied BERT's other bias.
            assert same[name] is None
            continue
        # The gradient of the logits is computed in fp32. That of a bias of keys, which moves no softmax, is 0 and some 1e-17.
        tolerance = 1e-5 * gradient.abs().max().item() + 1e-14
        torch.testing.assert_close(same[name], gradient, rtol=1e-5, atol=tolerance, msg=name)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("family", UNCAPPED)
def test_what_is_evaluated_and_saved_has_the_true_vocabulary(tiny_model, family, way, tmp_path):
    plain, other = made(tiny_model, family, way)
    one, loss = loss_of(plain.eval(), family)
    logits, same = loss_of(other.eval(), family)
    assert torch.equal(one.tokens, logits.tokens) and torch.equal(loss, same)
    assert other.config.to_dict() == plain.config.to_dict()
    for (name, weight), (other_name, as_kept) in zip(plain.state_dict().items(), other.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(weight, as_kept)
    other.save_pretrained(tmp_path)
    assert loss_of(type(other).from_pretrained(tmp_path, dtype=torch.float64).eval(), family)[1] == loss


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_in_training_without_labels_there_are_logits(tiny_model, family, way):
    plain, other = made(tiny_model, family, way)
    logits = [logits_of(FAMILIES[family], model(input_ids=IDS)).tokens[..., :VOCAB] for model in (plain, other)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_frozen_matrix_hands_its_gradient_down(tiny_model, way):
    plain, other = made(tiny_model, "llama", way, tied=False)
    for model in (plain, other):
        model.lm_head.requires_grad_(False)
    _, _, gradients = gradients_of(plain, "llama")
    _, _, same = gradients_of(other, "llama")
    assert same.pop("lm_head.weight") is None and gradients.pop("lm_head.weight") is None
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_batch_that_scores_nothing_has_no_loss_and_no_gradient(tiny_model, family, way):
    _, model = made(tiny_model, family, way)
    _, loss, gradients = gradients_of(model, family, labels=torch.full_like(IDS, IGNORED))
    assert loss == 0 and not any(gradient.any() for gradient in gradients.values() if gradient is not None)


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_gradients_in_half_precision_are_as_near_to_the_exact_ones_as_the_plain_models(monkeypatch, dtype, scale):
    monkeypatch.setattr(head, "_CHUNK", 3 * VOCAB)
    draw = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(40, 32, generator=draw).to(dtype), torch.randn(VOCAB, 32, generator=draw).to(dtype)
    labels = torch.randint(0, VOCAB, (40,), generator=draw)

    def gradients(with_loss, dtype):
        layer = torch.nn.Linear(32, VOCAB, bias=False).to(dtype)
        layer.weight.data = weight.to(dtype)
        inputs = hidden.detach().to(dtype, copy=True).requires_grad_()
        matrix = head.OutputMatrix(layer, 1, 1.0, with_loss=with_loss)
        matrix.labels = labels
        made = matrix(inputs)
        loss = made if with_loss else head.summed_loss(made, labels)
        (loss * scale / 40).backward()
        return inputs.grad.double(), layer.weight.grad.double()

    for ours, plain, exact in zip(
        gradients(True, dtype), gradients(False, dtype), gradients(False, torch.float64), strict=True
    ):
        # The product's result is rounded once more where the loss's gradient is known last.
        allowed = 1.5 * (plain - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
        assert (ours - exact).abs().max() <= allowed


def test_a_loss_that_is_poisoned_makes_every_gradient_nan(tiny_model):
    _, model = made(tiny_model, "gpt2", WAYS["both"])
    _, _, gradients = gradients_of(model, "gpt2", scale=float("nan"))
    assert all(gradient.isnan().any() for gradient in gradients.values())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_model_that_caps_its_logits_is_refused_by_key(tiny_model, way):
    """The rows that round it up would have a probability, and the loss of a chunk would be capped itself."""
    with pytest.raises(UserError, match=rf"{next(iter(way))}: not supported for a model that caps its logits"):
        prepare_model(tiny_model("gemma2"), FAMILIES["gemma2"], **way)
