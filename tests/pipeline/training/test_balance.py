"""What routers learn by, against plain PyTorch over the logits of the stock classes."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES
from pipeline.families.routing import routers
from pipeline.growth.zero_sink import fill_buffers
from pipeline.recipe import Recipe, RouterConfig
from pipeline.runs.records import ROUTER_KEYS
from pipeline.training.directory.checkpoints import TrainState
from pipeline.training.engine import TrainedModel
from pipeline.training.layers import prepare_model
from pipeline.training.loop.balance import Balance, check_experts
from tests.pipeline.growth import check

SEQUENCES, LENGTH, LAYERS, EXPERTS = 4, 12, 3, 4
TOKENS = SEQUENCES * LENGTH
MIXTURES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3"]
WEIGHTS = RouterConfig(router_aux_loss_coef=0.1, router_z_loss_coef=0.01)


def mixture(name="qwen3_moe", **changed):
    family = FAMILIES[name]
    config = check.small_config(family, num_hidden_layers=LAYERS, **changed)
    model = check.random_model(family, config, 1).train()
    prepare_model(model, family)
    return SimpleNamespace(family=family, config=config, module=model)


def ids(seed=3):
    return torch.randint(4, 61, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(seed))


def step(trained, balance, tokens, micro_batches=1):
    """One step of the auxiliary losses alone: their gradients, and the routers' metrics."""
    trained.module.zero_grad()
    added = []
    for some in tokens.chunk(micro_batches):
        with balance.watching():
            trained.module(input_ids=some)
        added.append(balance.loss(tokens.numel()))
        if isinstance(added[-1], torch.Tensor):
            added[-1].backward()
    metrics = balance.add_up(torch.tensor(2.5, dtype=torch.float64))
    balance.move_biases(1.0)
    gradients = {name: parameter.grad for name, parameter in trained.module.named_parameters() if parameter.grad is not None}
    return gradients, {key: value.item() for key, value in metrics.items()}, sum(torch.as_tensor(each).item() for each in added)


def plainly(trained, tokens, loads):
    """The logits that a stock class gives out, and both losses of them, f being of `loads` where some are given."""
    node = next(routers(trained.family.graph(trained.config))).node
    logits, picks = [], []

    def keep(_, __, output):
        logits.append(output[0])
        picks.append(output[2])

    gates = [trained.module.get_submodule(router.module) for router in routers(trained.family.graph(trained.config))]
    hooks = [gate.register_forward_hook(keep) for gate in gates]
    trained.module(input_ids=tokens)
    for hook in hooks:
        hook.remove()
    balancing, squares, chosen = [], [], []
    for number, (each, pick) in enumerate(zip(logits, picks, strict=True)):
        scores = torch.softmax(each, -1) if node.gate == "softmax" else torch.sigmoid(each)
        probabilities = scores / scores.sum(-1, keepdim=True)
        if node.gate == "softmax":
            assert torch.equal(pick, probabilities.topk(trained.config.num_experts_per_tok).indices)
        picked = torch.zeros_like(each).scatter(1, pick, 1.0)
        chosen.append(picked.sum(0))
        f = picked.mean(0) if loads is None else trained.config.num_experts_per_tok * loads[number] / loads[number].sum()
        balancing.append(each.shape[1] * (f * probabilities.mean(0)).sum())
        squares.append(torch.log(torch.exp(each).sum(-1)).pow(2).mean())
    return torch.stack(balancing).mean(), torch.stack(squares).mean(), torch.stack(chosen)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", MIXTURES)
def test_losses_and_gradients_are_those_of_plain_pytorch(name, checkpointed):
    trained = mixture(name)
    # DeepSeek's class computes its routers in float32 whatever the model's precision.
    tolerance = 1e-6 if name == "deepseek_v3" else 1e-12
    *_, loads = plainly(trained, ids(), None)
    balance = Balance.of(trained, WEIGHTS, loads.long().tolist())
    value, squares, later = plainly(trained, ids(4), loads)
    (0.1 * value + 0.01 * squares).backward()
    expected = {name: parameter.grad for name, parameter in trained.module.named_parameters() if parameter.grad is not None}
    if checkpointed:
        prepare_model(trained.module, trained.family, activation_checkpointing=True)
    gradients, metrics, added = step(trained, balance, ids(4))
    assert gradients.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(gradients[key], gradient, rtol=0, atol=tolerance, msg=key)
    assert added == pytest.approx((0.1 * value + 0.01 * squares).item(), rel=tolerance)
    # The step's metrics are by its own choices.
    exact, exact_z, _ = plainly(trained, ids(4), None)
    assert metrics["router_aux_loss"] == pytest.approx(exact.item(), rel=tolerance)
    assert metrics["router_z_loss"] == pytest.approx(exact_z.item(), rel=tolerance)
    assert balance.loads == later.long().tolist()
    assert value.item() != pytest.approx(exact.item(), rel=1e-4)


def test_every_way_to_divide_a_step_gives_the_same():
    found = []
    for micro_batches in (1, 2, 4):
        trained = mixture()
        balance = Balance.of(trained, WEIGHTS, None)
        step(trained, balance, ids(5))
        found.append(step(trained, balance, ids(6), micro_batches))
    for gradients, metrics, added in found[1:]:
        assert metrics == pytest.approx(found[0][1], rel=1e-12) and added == pytest.approx(found[0][2], rel=1e-12)
        for key, gradient in found[0][0].items():
            torch.testing.assert_close(gradients[key], gradient, rtol=0, atol=1e-12, msg=key)


def test_loads_tell_how_uneven_the_worst_layer_is():
    trained = mixture()
    balance = Balance.of(trained, None, None)
    *_, loads = plainly(trained, ids(), None)
    _, metrics, _ = step(trained, balance, ids())
    shares = loads / loads.sum(1, keepdim=True)
    assert tuple(metrics) == ROUTER_KEYS
    assert metrics["expert_load_max"] == pytest.approx((EXPERTS * shares).max().item())
    assert metrics["expert_load_min"] == pytest.approx((EXPERTS * shares).min().item())
    entropy = torch.distributions.Categorical(shares).entropy().mean() / torch.log(torch.tensor(float(EXPERTS)))
    assert metrics["expert_load_entropy"] == pytest.approx(entropy.item(), rel=1e-6)


def test_the_first_step_of_a_model_has_no_balancing_gradient_and_even_loads_have_none():
    trained = mixture()
    gradients, _, added = step(trained, Balance.of(trained, RouterConfig(router_aux_loss_coef=1.0), None), ids())
    # k where all is even, whatever the probabilities.
    assert added == pytest.approx(trained.config.num_experts_per_tok, rel=1e-12)
    assert all(gradient.abs().max() < 1e-14 for gradient in gradients.values())


@pytest.mark.parametrize("config", [None, RouterConfig(router_aux_loss_coef=0.0), RouterConfig(router_aux_loss_coef=0.25)])
def test_the_weight_is_the_configurations_own_where_none_is_given(config):
    trained = mixture(router_aux_loss_coef=0.125)
    _, metrics, added = step(trained, Balance.of(trained, config, None), ids())
    weight = 0.125 if config is None else config.router_aux_loss_coef
    assert added == pytest.approx(weight * trained.config.num_experts_per_tok, rel=1e-6)
    assert metrics["router_aux_loss"] > 0


def test_a_router_that_stands_still_is_told_of_and_has_no_loss():
    trained = mixture()
    balance = Balance.of(trained, WEIGHTS, None)
    step(trained, balance, ids(5))
    whole, *_ = step(trained, balance, ids())
    found = list(routers(trained.family.graph(trained.config)))
    top = f"{found[-1].module}.weight"
    balance = Balance.of(trained, WEIGHTS, None)
    step(trained, balance, ids(5))
    for router in found[:-1]:
        trained.module.get_submodule(router.module).weight.requires_grad_(False)
    some, metrics, _ = step(trained, balance, ids())
    torch.testing.assert_close(some[top], whole[top], rtol=0, atol=1e-12)
    below = [key for key in some if ".layers.0." in key]
    assert all(not torch.equal(some[key], whole[key]) for key in below)
    trained.module.requires_grad_(False)
    gradients, again, added = step(trained, balance, ids())
    assert not gradients and added == 0 and again == pytest.approx(metrics, rel=1e-12)


def test_layers_that_do_not_run_keep_their_loads():
    trained = mixture(mlp_only_layers=[1])
    balance = Balance.of(trained, WEIGHTS, None)
    step(trained, balance, ids())
    before = balance.loads
    layers = trained.module.model.layers
    trained.module.model.layers = layers[:2]
    _, metrics, _ = step(trained, balance, ids(7))
    assert balance.loads[0] != before[0] and balance.loads[1] == before[1]
    shares = torch.tensor(balance.loads[0]) / sum(balance.loads[0])
    assert metrics["expert_load_min"] == pytest.approx(EXPERTS * shares.min().item(), rel=1e-6)


def test_a_run_that_goes_on_learns_by_the_loads_of_the_step_before():
    trained = mixture()
    balance = Balance.of(trained, WEIGHTS, None)
    step(trained, balance, ids())
    saved = json.dumps(asdict(TrainState(step=1, expert_loads=balance.loads)))
    expected, *_ = step(trained, balance, ids(4))
    again = Balance.of(trained, WEIGHTS, TrainState(**json.loads(saved)).expert_loads)
    gradients, *_ = step(trained, again, ids(4))
    assert all(torch.equal(gradients[key], gradient) for key, gradient in expected.items())
    forgotten, *_ = step(trained, Balance.of(trained, WEIGHTS, None), ids(4))
    assert not any(torch.equal(forgotten[key], gradient) for key, gradient in expected.items() if ".gate." in key)


def test_evaluations_are_not_watched():
    trained = mixture()
    balance = Balance.of(trained, WEIGHTS, None)
    expected = step(trained, balance, ids())[1]
    trained.module(input_ids=ids(9))
    assert step(trained, balance, ids())[1] == expected


def test_a_selection_bias_goes_up_for_idle_experts_and_down_for_busy_ones():
    """Loss-free balancing, written out: b_e += u sign(mean - load of e); and no gradient comes of it."""
    trained = mixture("deepseek_v3")
    found = list(routers(trained.family.graph(trained.config)))
    gates = [trained.module.get_submodule(router.module) for router in found]
    before = [gate.e_score_correction_bias.clone() for gate in gates]
    *_, loads = plainly(trained, ids(), None)
    balance = Balance.of(trained, RouterConfig(router_bias_update_rate=0.01), None)
    gates[1].weight.requires_grad_(False)
    gradients, *_ = step(trained, balance, ids(), micro_batches=2)
    moved = before[0] + 0.01 * torch.sign(loads[0].mean() - loads[0])
    assert torch.equal(gates[0].e_score_correction_bias, moved) and not torch.equal(moved, before[0])
    # A router that stands still chooses as it did; and a step whose gradient is no number moves nothing.
    assert torch.equal(gates[1].e_score_correction_bias, before[1]) and not gradients
    for norm in (float("nan"), torch.tensor(float("inf")), torch.tensor(-1.0)):
        with balance.watching():
            trained.module(input_ids=ids(4))
        balance.loss(TOKENS)
        balance.add_up(torch.tensor(2.5, dtype=torch.float64))
        balance.move_biases(norm)
    assert torch.equal(gates[0].e_score_correction_bias, moved)


def test_nothing_is_told_of_a_step_in_which_no_layer_with_experts_ran():
    metrics = Balance.of(mixture("deepseek_v3"), WEIGHTS, None).add_up(torch.tensor(2.5, dtype=torch.float64))
    assert all(value.isnan() for value in metrics.values())


def test_a_bias_that_moves_is_not_that_of_the_source():
    trained = mixture("deepseek_v3")
    (name, *_) = [tensor.name for tensor in trained.family.graph(trained.config).tensors().values() if tensor.buffer]
    held = torch.zeros(EXPERTS)
    rows = SimpleNamespace(shape=held.shape, rows=lambda start, stop: held[start:stop])
    fill_buffers(SimpleNamespace(module=trained.module, device="cpu"), {name: rows})
    step(trained, Balance.of(trained, RouterConfig(router_bias_update_rate=0.01), None), ids())
    assert trained.module.get_buffer(name).any() and not held.any()


@pytest.mark.parametrize("asked", [False, True])
def test_the_class_makes_no_balancing_loss_of_its_own(asked):
    trained = mixture(output_router_logits=asked)
    returned = []

    def engine(**inputs):
        returned.append(trained.module(**inputs))
        return returned[-1]

    TrainedModel(trained.family, trained.config, engine, optimizer=None, parameter_groups={}).logits(ids())
    assert returned[0].router_logits is None and returned[0].aux_loss is None


CONTENT = {
    "run_dir": "run",
    "data": {"shards": "data", "sequence_length": 16},
    "source": {"path": "source"},
    "target": {},
    "stages": [{"name": "all", "steps": 1}],
}


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("llama", {"router": {}}, "router: no model of the run is a mixture of experts; leave it out"),
        ("llama", {"experts_implementation": "eager"}, "experts_implementation: no model of the run is a mixture of experts"),
        ("mixtral", {"router": {"router_bias_update_rate": 0.1}}, "router.router_bias_update_rate: no model of the run"),
        ("mixtral", {}, "experts_implementation: grouped_mm reads rows of whole 16 bytes, 8 numbers of 2 bytes, and an expert"),
    ],
)
def test_what_no_model_of_the_run_can_have_is_refused(name, keys, said):
    recipe = Recipe.model_validate(CONTENT | keys)
    config = check.small_config(FAMILIES[name], intermediate_size=36)
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        check_experts(recipe, {0: config}, torch.bfloat16)


def test_sizes_that_grouped_products_do_not_take_run_one_after_the_other():
    config = check.small_config(FAMILIES["mixtral"], intermediate_size=36)
    check_experts(Recipe.model_validate(CONTENT | {"experts_implementation": "eager"}), {0: config}, torch.bfloat16)
    check_experts(Recipe.model_validate(CONTENT), {0: config}, torch.float32)
    check_experts(Recipe.model_validate(CONTENT), {0: check.small_config(FAMILIES["llama"])}, torch.bfloat16)
