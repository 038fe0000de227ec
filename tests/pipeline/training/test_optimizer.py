"""Optimizers against torch's and by hand: elements of several ages, frozen groups, refused steps; and what decays."""

import math
from types import SimpleNamespace

import pytest
import torch
from deepspeed.ops.op_builder import CPUAdamBuilder
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.families import FAMILIES, graph_of, scratch_config
from pipeline.recipe import ModelConfig, OptimizerConfig
from pipeline.training import adamw as adamw_module
from pipeline.training import muon as muon_module
from pipeline.training.adamw import FreezableAdamW, OffloadedAdamW
from pipeline.training.muon import FreezableMuon, Matrix, newton_schulz, orthogonalize
from pipeline.training.optimizer import build_optimizer, optimizer_groups
from pipeline.training.parameter_groups import cut
from tests.distributed.engines import is_built
from tests.pipeline.growth.check import small_config
from tests.pipeline.training.optimizers import (
    CLOSE,
    COMPILER,
    GENERATOR,
    GRADIENTS,
    MOMENTS,
    OPTIONS,
    SIZE,
    STEPS,
    WEIGHTS,
    adamw_of,
    lion_of,
    muon_of,
    plain_lion,
    state_at,
    stepped,
    torch_adamw,
    torch_muon,
    weights,
)


@pytest.fixture(params=["in chunks", pytest.param("compiled", marks=COMPILER)])
def elementwise(request, monkeypatch):
    """Step elements in chunks, as on a CPU, or by one compiled kernel, as on a GPU."""
    monkeypatch.setattr(adamw_module, "CHUNK_ELEMENTS", 7)
    monkeypatch.setattr(adamw_module, "triton_runs", lambda device: request.param == "compiled")


@pytest.mark.parametrize("shape", [(SIZE,), (12, 5)])
def test_each_element_takes_the_steps_of_its_own_age_rate_and_eps(shape, elementwise):
    old, new, factored = slice(0, 20), slice(20, 40), slice(40, 60)
    age = torch.zeros(SIZE)
    age[old] = 1000
    is_old = (age > 0).float()
    rate, eps = torch.ones(SIZE), torch.ones(SIZE)
    rate[factored], eps[factored] = 0.25, 8.0
    state = {"step": age.clone(), "exp_avg": MOMENTS[0] * is_old, "exp_avg_sq": MOMENTS[1] * is_old}
    state |= {"lr_factor": rate, "eps_factor": eps}
    parameter = weights(*shape)
    adamw = adamw_of(parameter, **{key: value.reshape(shape) for key, value in state.items()})
    moved = stepped(adamw, parameter).flatten()
    torch.testing.assert_close(moved[old], torch_adamw(old, 1000.0), **CLOSE)
    torch.testing.assert_close(moved[new], torch_adamw(new, 0.0), **CLOSE)
    # Decay is lr x weight_decay in both: a rate of a times lr with a decay of 1/a.
    changed = {"lr": 0.25 * OPTIONS["lr"], "weight_decay": OPTIONS["weight_decay"] / 0.25, "eps": 8 * OPTIONS["eps"]}
    torch.testing.assert_close(moved[factored], torch_adamw(factored, 0.0, **changed), **CLOSE)
    assert torch.equal(adamw.state[parameter]["step"].flatten(), age + STEPS)


def test_a_scalar_step_with_factors_counts_once_a_step(elementwise):
    parameter = weights()
    moved = stepped(adamw_of(parameter, **state_at(1000.0), lr_factor=torch.tensor(0.25)), parameter)
    changed = {"lr": 0.25 * OPTIONS["lr"], "weight_decay": OPTIONS["weight_decay"] / 0.25}
    expected = torch_adamw(slice(None), 1000.0, **changed)
    torch.testing.assert_close(moved, expected, **CLOSE)


@COMPILER
def test_the_compiled_step_is_one_kernel_for_all_lengths_and_rates(monkeypatch):
    monkeypatch.setattr(adamw_module, "triton_runs", lambda device: True)
    torch._dynamo.reset()
    adamw_module._compiled_adamw.cache_clear()
    torch._dynamo.utils.counters.clear()
    torch._inductor.metrics.reset()
    for length in (20, 30, 50):
        parameter = WEIGHTS[:length].clone().requires_grad_()
        state = {key: torch.zeros(length) for key in ("step", "exp_avg", "exp_avg_sq")}
        adamw = adamw_of(parameter, **state, lr_factor=torch.ones(length))
        for number, gradient in enumerate(GRADIENTS[:3]):
            adamw.param_groups[0] |= {"lr": OPTIONS["lr"] / (1 + number), "weight_decay": 0.1 * number}
            stepped(adamw, parameter, gradients=[gradient[:length]])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert torch._inductor.metrics.generated_kernel_count == 1


def test_a_frozen_group_stands_still_and_plain_tensors_take_torchs_own_steps_to_the_bit():
    mixed, plain, frozen = weights(), weights(), weights()
    groups = [{"params": [mixed, plain], "frozen": False}, {"params": [frozen], "frozen": True}]
    adamw = FreezableAdamW(groups, **OPTIONS)
    for parameter in (mixed, frozen):
        adamw.state[parameter] = {key: torch.zeros(SIZE) for key in ("step", "exp_avg", "exp_avg_sq")}
    stepped(adamw, mixed, plain, frozen)
    assert torch.equal(plain, torch_adamw(slice(None), 0.0))
    assert torch.equal(frozen, WEIGHTS) and adamw.state[frozen]["step"].max() == 0
    assert not torch.equal(mixed, WEIGHTS)


# --- other optimizers, refusals, groups -----------------------------------------------------------


def test_muon_orthogonalizes_each_matrix_of_experts_that_one_parameter_joins_and_those_that_stand_still_stay():
    weight, *gradients = torch.randn(4, 3, 24, 8, generator=GENERATOR)
    parameter = weight.clone().requires_grad_()
    still, learning = ({"frozen": frozen, "lr": 0.02, "weight_decay": 0.1} for frozen in (True, False))
    matrices = {f"{expert}.{part}": Matrix((12, 8), 0) for expert in range(3) for part in ("gate", "up")}
    rows = {"first": dict(still), "others": dict(learning)}
    muon = muon_of([parameter], matrices, torch.bfloat16, block="first", rows=rows)
    first = torch.zeros(3, 24, 8, dtype=torch.bool)
    first[0] = True
    muon.row_groups = {parameter: {"first": first.flatten(), "others": ~first.flatten()}}
    for number, gradient in enumerate(gradients):
        rows["first"]["frozen"] = number < 2
        # As the hook on the parameter leaves it.
        parameter.grad = gradient.masked_fill(first, 0) if number < 2 else gradient.clone()
        muon.step()
        assert torch.equal(parameter[0], weight[0]) == (number < 2)
    for expert in range(3):
        of_expert = [gradient[expert] for gradient in (gradients if expert else gradients[2:])]
        for part in (slice(0, 12), slice(12, 24)):
            expected = torch_muon(weight[expert, part], [gradient[part] for gradient in of_expert])
            # Iterated in bf16 in another order, as above; gate and up as one matrix would be off by 5e-3.
            torch.testing.assert_close(parameter[expert, part].detach(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("shape", "output_axis"), [((12, 5), 0), ((5, 12), 0), ((5, 12), 1), ((6, 18), 1)])
def test_muon_is_torchs_on_linear_layers_and_on_gpt2s_transposed_and_fused_ones(shape, output_axis):
    parts = 3 if shape == (6, 18) else 1
    weight, *gradients = torch.randn(5, *shape, generator=GENERATOR)
    parameter = weight.clone().requires_grad_()
    matrix = Matrix(shape, output_axis, (6,) * parts if parts > 1 else (), 1)
    moved = stepped(muon_of([parameter], {"w": matrix}, torch.bfloat16), parameter, gradients=gradients)
    expected = []
    for number in range(parts):
        part, *partial = (tensor.chunk(parts, 1)[number] for tensor in (weight, *gradients))
        # torch takes [outputs, inputs].
        turned = [tensor.T if output_axis else tensor for tensor in (part, *partial)]
        alone = torch_muon(turned[0], turned[1:])
        expected.append(alone.T if output_axis else alone)
    # Both iterate in bf16, ours in another order: 2^-8 of 4 steps of 0.02, magnified by five quintics.
    torch.testing.assert_close(moved, torch.cat(expected, 1), rtol=0, atol=5e-3)


def test_orthogonalized_matrices_have_singular_values_near_one():
    for shape in ((40, 8), (8, 40), (8, 8)):
        s = torch.linalg.svdvals(newton_schulz(torch.randn(shape, generator=GENERATOR), torch.float32))
        # Five iterations with Jordan's coefficients leave them between about .7 and 1.2 unless they began near 0.
        assert s.max() < 1.3 and s.median() > 0.6
    tiny = torch.randn(8, 8, generator=GENERATOR)
    torch.testing.assert_close(newton_schulz(tiny * 1e-4, torch.float32), newton_schulz(tiny, torch.float32), rtol=0, atol=1e-4)


VIEWS = {"view", "slice", "detach", "split", "split_with_sizes", "transpose", "unbind", "as_strided", "alias", "squeeze"}


class Kernels(TorchDispatchMode):
    """Counts what a GPU would start: operations that are more than another view."""

    def __init__(self) -> None:
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ not in VIEWS:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def muon_over(layers: int, *, joined: bool = True):
    """Return a Muon over layers of a fused matrix and two others, and what it steps: one flat parameter, or each matrix."""
    forms = {"fused": Matrix((6, 18), 1, (6, 6, 6), 1), "up": Matrix((12, 6), 0), "down": Matrix((6, 12), 0)}
    matrices = {f"{layer}.{name}": form for layer in range(layers) for name, form in forms.items()}
    sizes = [matrix.numel for matrix in matrices.values()]
    drawn = torch.randn(2, sum(sizes), generator=torch.Generator().manual_seed(4))
    parameters = []
    for value, gradient in zip(*(flat.split(sum(sizes) if joined else sizes) for flat in drawn), strict=True):
        parameters.append(value.clone().requires_grad_())
        parameters[-1].grad = gradient.clone()
    return muon_of(parameters, matrices), parameters


def test_muon_starts_as_many_kernels_for_many_layers_as_for_a_few():
    counts = []
    for layers in (2, 9):
        muon, _ = muon_over(layers)
        muon.step()
        with Kernels() as kernels:
            muon.step()
        # Nothing that waits for a GPU.
        assert not {"_local_scalar_dense", "nonzero", "_to_copy"} & set(kernels.names)
        counts.append(len(kernels.names))
    assert counts[0] == counts[1]


def test_muons_matrices_of_a_shape_step_together_as_each_alone(monkeypatch):
    together, moved = muon_over(5)
    together.step()
    monkeypatch.setattr(muon_module, "_TOGETHER", 1)
    alone, expected = muon_over(5)
    alone.step()
    # The order of sums within a product.
    torch.testing.assert_close(moved[0].detach(), expected[0].detach(), rtol=0, atol=1e-6)


def test_matrices_that_are_parameters_of_their_own_are_multiplied_at_once_as_those_of_a_flat_master():
    """Without ZeRO each matrix is a parameter."""
    products = []
    for layers in (2, 9):
        (flat, (expected,)), (muon, own) = muon_over(layers), muon_over(layers, joined=False)
        flat.step()
        with Kernels() as kernels:
            muon.step()
        products.append(kernels.names.count("baddbmm"))
        torch.testing.assert_close(torch.cat([each.detach() for each in own]), expected.detach(), rtol=0, atol=1e-6)
    assert products[0] == products[1]


def test_lion_makes_its_momentum_once():
    parameter = weights()
    lion = lion_of(parameter)
    for made in (1, 0):
        with Kernels() as kernels:
            stepped(lion, parameter, gradients=GRADIENTS[:1])
        assert kernels.names.count("zeros_like") == made


def test_lion_by_hand_and_frozen():
    live, frozen = weights(), weights()
    lion = lion_of(live)
    lion.add_param_group({"params": [frozen], "frozen": True, "weight_decay": 0.1})
    torch.testing.assert_close(stepped(lion, live, frozen), plain_lion(), rtol=1e-5, atol=1e-6)
    assert torch.equal(frozen, WEIGHTS) and frozen not in lion.state


@pytest.mark.skipif(not is_built(CPUAdamBuilder()), reason="DeepSpeed's cpu_adam is not compiled; make test-full compiles it")
def test_deepspeeds_cpu_adam_steps_as_torchs_from_any_age_and_freezes():
    for age in (0.0, 1000.0):
        live, frozen = weights(), weights()
        adamw = OffloadedAdamW([{"params": [live], "frozen": False}, {"params": [frozen], "frozen": True}], **OPTIONS)
        adamw.state[live] |= state_at(age)
        torch.testing.assert_close(stepped(adamw, live, frozen), torch_adamw(slice(None), age), **CLOSE)
        assert torch.equal(frozen, WEIGHTS) and adamw.state[live]["step"] == age + STEPS


def test_beside_a_gpu_a_cpu_adam_that_cannot_be_compiled_is_said_with_what_it_needs(monkeypatch, caplog):
    def load(*_: object, **__: object):
        raise RuntimeError("Error building extension 'cpu_adam'")

    monkeypatch.setattr(CPUAdamBuilder, "load", load)
    monkeypatch.setattr("pipeline.training.optimizer.get_accelerator", lambda: SimpleNamespace(device_name=lambda: "cuda"))
    groups = [{"params": [weights()], "frozen": False, "weight_decay": 0.1}]
    offloaded = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    chosen = build_optimizer(None, groups, OptimizerConfig(), offloaded)
    assert type(chosen) is FreezableAdamW
    assert "'cpu_adam'" in caplog.text and "Debian's packages g++ and python3-dev" in caplog.text


@pytest.mark.parametrize(
    ("family", "name", "parts"),
    [
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight", [range(64), range(64, 96), range(96, 128)]),
        ("phi3", "model.layers.0.mlp.gate_up_proj.weight", [range(100), range(100, 200)]),
        (
            "gpt_neox",
            "gpt_neox.layers.0.attention.query_key_value.weight",
            [[48 * head + 16 * part + row for head in range(4) for row in range(16)] for part in range(3)],
        ),
        ("llama", "model.layers.0.self_attn.q_proj.weight", [range(64)]),
    ],
)
def test_muon_takes_the_matrices_of_a_fused_one_apart_as_its_family_lays_them_out(family, name, parts):
    graph = FAMILIES[family].graph(small_config(FAMILIES[family]))
    matrix = Matrix.of(graph.tensors()[name], graph.sizes)
    values = torch.randn(matrix.shape, generator=GENERATOR)
    expected = values.clone()
    for rows in parts:
        rows = torch.tensor([*rows])
        scale = math.sqrt(max(1.0, len(rows) / matrix.shape[1]))
        expected[rows] = newton_schulz(values[rows], torch.float32) * scale
    orthogonalize(matrix.matrices_in(values.view(-1)), torch.float32)
    # In place, several at once: the products sum in another order.
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-4)


OPTIMIZERS = {
    "adamw": adamw_of,
    "lion": lion_of,
    "muon": lambda parameter: FreezableMuon(
        [{"params": [parameter], "frozen": False, "muon": False}], {}, torch.float32, **OPTIONS
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("on_the_device", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_refused_step_moves_nothing(name, on_the_device, bad):
    parameter = weights()
    optimizer = OPTIMIZERS[name](parameter)

    def step(gradient: torch.Tensor, refused: bool) -> None:
        optimizer.refuses = lambda: torch.tensor(float(refused)) if on_the_device else refused
        stepped(optimizer, parameter, gradients=[gradient])

    step(torch.full((SIZE,), bad), True)
    assert torch.equal(parameter, WEIGHTS) and not any(value.any() for value in optimizer.state[parameter].values())
    step(GRADIENTS[0], False)
    assert not torch.equal(parameter, WEIGHTS)
    before = [value.clone() for value in (parameter.detach(), *optimizer.state[parameter].values())]
    step(torch.full((SIZE,), bad), True)
    assert all(map(torch.equal, before, (parameter.detach(), *optimizer.state[parameter].values())))


@pytest.mark.parametrize("one_kernel", [False, True])
def test_a_step_that_is_refused_on_the_device_moves_no_grown_state_either(one_kernel, monkeypatch):
    if one_kernel:
        # What is compiled on a GPU, as it is written.
        monkeypatch.setattr(adamw_module, "triton_runs", lambda device: True)
        monkeypatch.setattr(adamw_module, "_compiled_adamw", lambda: adamw_module._adamw_unless)
    steps = {}
    for bad in (False, True):
        parameter = weights()
        optimizer = adamw_of(parameter, **{key: torch.arange(float(SIZE)) for key in ("step", "exp_avg", "exp_avg_sq")})
        for gradient in GRADIENTS:
            for refused in (True, False) if bad else (False,):
                optimizer.refuses = lambda refused=refused: torch.tensor(float(refused))
                stepped(optimizer, parameter, gradients=[torch.full((SIZE,), math.nan) if refused else gradient])
        steps[bad] = [parameter.detach(), *optimizer.state[parameter].values()]
    assert all(map(torch.equal, steps[False], steps[True])) and not torch.equal(steps[True][0], WEIGHTS)


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_norms_biases_and_by_choice_embeddings_do_not_decay(family, tied):
    described = ModelConfig(family=family, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, tie_word_embeddings=tied)
    config = scratch_config(described, 16, 0, 8)
    model = FAMILIES[family].model_class(config)
    embeddings = {name + ".weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
    for choice in (True, False):
        optimizer = OptimizerConfig(name="muon", muon_lr=0.02, decay_embeddings=choice)
        groups = optimizer_groups(model, graph_of(config), cut(2, []), optimizer)
        decaying = {name for group in groups if group["weight_decay"] for name in group["names"]}
        matrices = {name for name, parameter in model.named_parameters() if parameter.dim() == 2}
        assert decaying == (matrices if choice else matrices - embeddings)
        assert embeddings & decaying == (embeddings if choice else set())
    by_muon = {name for group in groups if group["muon"] for name in group["names"]}
    layers = FAMILIES[family].layers + "."
    assert by_muon == {name for name in matrices if name.startswith(layers)} and by_muon
    assert {group["rate_ratio"] for group in groups if group["muon"]} == {20.0}
    assert {group["rate_ratio"] for group in groups if not group["muon"]} == {1.0}
