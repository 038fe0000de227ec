"""Adam's state grown with the weights: the target goes on as its source would have.

AdamW is written out here, with what a grown state may hold for each element: a factor on the rate, one on eps, and the
number of steps that the element has seen. Decay is the source's: `lr * weight_decay` of whatever the weight is.
"""

import pytest
import torch

from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.optimizer_growth import grow_optimizer
from tests.pipeline.growth.models import grown_tensors, loaded, loss, plan_of, small_model, state_of, tokens, whole

LR, BETAS, EPS, DECAY = 3e-3, (0.9, 0.98), 1e-3, 0.1
"""An eps as large as gradients are, so that it counts."""
STEPS = 10
SAME = 1e-6
"""Grown moments are float32: seven digits of updates of 3e-3 over ten steps."""


class Adam:
    """AdamW over named parameters, moments in float64."""

    def __init__(self, model, state=None):
        self.parameters = dict(model.named_parameters())
        fresh = {"exp_avg": 0.0, "exp_avg_sq": 0.0, "step": 0.0}
        self.state = {
            name: {key: torch.zeros_like(parameter) + whole(value) for key, value in (state or {}).get(name, fresh).items()}
            for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def step(self):
        for name, parameter in self.parameters.items():
            state, gradient = self.state[name], parameter.grad
            state["step"] += 1
            state["exp_avg"].mul_(BETAS[0]).add_((1 - BETAS[0]) * gradient)
            state["exp_avg_sq"].mul_(BETAS[1]).add_((1 - BETAS[1]) * gradient**2)
            mean = state["exp_avg"] / (1 - BETAS[0] ** state["step"])
            deviation = (state["exp_avg_sq"] / (1 - BETAS[1] ** state["step"])).sqrt()
            if parameter.dim() > 1:
                parameter.mul_(1 - LR * DECAY)
            rate, eps = LR * state.get("lr_factor", 1.0), EPS * state.get("eps_factor", 1.0)
            parameter.sub_(rate * mean / (deviation + eps))


def train(model, adam, first):
    losses = []
    for step in range(first, first + STEPS):
        ids = tokens(step, windows=4)
        model.zero_grad()
        value = loss(model, ids)
        value.backward()
        adam.step()
        losses.append(value.item())
    return losses


def trained(family, **sizes):
    """Return (a model after ten steps, its optimizer, the optimizer's state as a source has it)."""
    model = small_model(family, layers=2, **sizes)
    adam = Adam(model)
    train(model, adam, 0)
    kept = {
        name: {key: MappedTensor(state[key].clone()) for key in ("exp_avg", "exp_avg_sq")} | {"step": float(STEPS)}
        for name, state in adam.state.items()
    }
    return model, adam, kept


def continued(family, growth, target):
    """Return the losses of ten further steps of (the source, the target)."""
    model, adam, kept = trained(family)
    assert set(kept) == set(state_of(model))
    plan, config = plan_of(model, target, growth)
    grown = loaded(grown_tensors(plan, model), config)
    state = grow_optimizer(plan, kept) if plan.growth.optimizer_state == "grow" else None
    after = train(grown, Adam(grown, state), STEPS)
    return train(model, adam, STEPS), after


MOMENTS = {"width": "fpi", "optimizer_state": "grow", "element_rates": True}


@pytest.mark.parametrize("target", [{"hidden_size": 64}, {"hidden_size": 96}])
@pytest.mark.parametrize("width", ["fpi", "hypercloning", "nai"])
@pytest.mark.parametrize("family", ["gpt2", "bert", "bert with pairs", "roberta", "llama", "qwen2", "qwen3"])
def test_the_target_learns_as_the_source_does(family, width, target):
    before, after = continued(family, MOMENTS | {"width": width}, target)
    assert before == pytest.approx(after, abs=SAME)


@pytest.mark.parametrize("target", [{"intermediate_size": 100}, {"num_attention_heads": 8, "num_key_value_heads": 2}])
def test_units_and_heads_alone(target):
    before, after = continued("llama", MOMENTS, target)
    assert before == pytest.approx(after, abs=SAME)


@pytest.mark.parametrize("left_out", [{"element_rates": False}, {"optimizer_state": "fresh", "element_rates": False}])
def test_the_comparison_would_notice(left_out):
    """Without rates of their own copies learn faster, and without the moments they begin anew."""
    before, after = continued("gpt2", MOMENTS | left_out, {"hidden_size": 64})
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 1e-3


def of(state, name):
    return {key: value if isinstance(value, float) else whole(value).double() for key, value in state[name].items()}


@pytest.mark.parametrize(
    ("name", "axes", "moment", "rate"),
    [
        # A matrix reads at 1/C_in: C_out C_in copies of a gradient that is C_in times smaller... by C_out in all.
        ("transformer.h.0.mlp.c_fc.weight", (2, 3), 3, 1 / 2),
        ("transformer.h.0.mlp.c_fc.bias", (3,), 3, 1),
        ("transformer.h.0.mlp.c_proj.weight", (3, 2), 2, 1 / 3),
        ("transformer.h.0.attn.c_proj.weight", (2, 2), 2, 1 / 2),
        ("transformer.h.0.ln_1.weight", (2,), 2, 1),
        ("transformer.wte.weight", (1, 2), 2, 1),
        # The final norm carries the tied matrix's 1/C: C copies at 1/C.
        ("transformer.ln_f.weight", (2,), 1, 1 / 2),
        ("transformer.ln_f.bias", (2,), 1, 1 / 2),
    ],
)
def test_moments_by_hand(name, axes, moment, rate):
    """Hidden size x2, FFN x3: what each kind of tensor's moments are divided by, and its rates."""
    model, _, kept = trained("gpt2")
    plan, _ = plan_of(model, {"hidden_size": 64, "intermediate_size": 192}, MOMENTS)
    old, new = of(kept, name), of(grow_optimizer(plan, kept), name)
    torch.testing.assert_close(new["exp_avg"], old["exp_avg"].repeat(axes) / moment, rtol=1e-6, atol=0)
    torch.testing.assert_close(new["exp_avg_sq"], old["exp_avg_sq"].repeat(axes) / moment**2, rtol=1e-6, atol=0)
    assert new["step"] == STEPS
    assert new["lr_factor"].unique().tolist() == pytest.approx([rate])
    assert new["eps_factor"].unique().tolist() == pytest.approx([1 / moment])


def test_new_elements_start_their_count_anew():
    """Where the source has no value, moments are zero and so are the steps; elsewhere they are the source's."""
    model, _, kept = trained("gpt2")
    plan, _ = plan_of(model, {"intermediate_size": 100}, MOMENTS | {"width": "exact_aki"})
    up = of(grow_optimizer(plan, kept), "transformer.h.0.mlp.c_fc.weight")
    for key in ("exp_avg", "exp_avg_sq"):
        assert (up[key][:, 64:] == 0).all() and (up[key][:, :64] != 0).all()
    assert (up["step"][:, 64:] == 0).all() and (up["step"][:, :64] == STEPS).all()
    assert (up["lr_factor"] == 1).all() and (up["eps_factor"] == 1).all()


@pytest.mark.parametrize(("width", "steps"), [("aki", 0), ("direct_copy", 0), ("fpi", STEPS)])
def test_steps_of_new_rows(width, steps):
    """AKI's new rows are another layer's, DirectCopy's are random: neither has a past. FPI's are copies."""
    model, _, kept = trained("bert")
    plan, _ = plan_of(model, {"hidden_size": 64}, MOMENTS | {"width": width})
    query = of(grow_optimizer(plan, kept), "bert.encoder.layer.0.attention.self.query.weight")
    step = torch.zeros(64, 64) + query["step"]
    assert (step[:32, :32] == STEPS).all() and (step[32:] == steps).all()
    assert bool((query["exp_avg"][32:] == 0).all()) == (steps == 0)


@pytest.mark.parametrize("depth", ["stack", "last_layer", "interleave", "random"])
def test_added_layers_start_anew(depth):
    model, _, kept = trained("gpt2")
    plan, _ = plan_of(model, {"num_hidden_layers": 4}, MOMENTS | {"depth": depth})
    grown = grow_optimizer(plan, kept)
    added = [1, 3] if depth == "interleave" else [2, 3]
    for layer in range(4):
        state = of(grown, f"transformer.h.{layer}.mlp.c_fc.weight")
        fresh = not any(torch.as_tensor(state[key]).any() for key in ("exp_avg", "exp_avg_sq", "step"))
        assert fresh == (layer in added)
