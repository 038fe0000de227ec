"""What a class joins in one parameter, taken apart and put together: weights, and what an optimizer keeps of them."""

import itertools

import pytest
import torch

from pipeline.families import graph_of
from pipeline.growth import streaming
from pipeline.growth.fused_parameters import optimizer_of_parameters, slices_of, stored_optimizer
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.sources import open_source
from pipeline.growth.state import Constant
from pipeline.growth.zero_files import TAG, write_zero3
from tests.pipeline.growth.models import whole

FIRST = "model.layers.0.mlp.experts."


@pytest.fixture
def source(tiny_model, tmp_path):
    tiny_model("qwen2_moe").float().save_pretrained(tmp_path / "model")
    return open_huggingface(tmp_path / "model")


def moments(source):
    """Twice the weights, and steps that differ by expert in one layer alone."""
    tensors = graph_of(source.config).tensors()
    return {
        name: {"exp_avg": rows, "step": float(tensors[name].expert or 0) if tensors[name].layer == 0 else 7.0}
        for name, rows in source.state.items()
    }


def test_what_is_the_same_for_all_experts_is_one_number_and_else_has_each_experts_own(source):
    graph, kept = graph_of(source.config), moments(source)
    joined = optimizer_of_parameters(graph, kept)
    assert joined.keys() == graph.parameter_shapes().keys()
    assert joined["model.layers.1.mlp.experts.down_proj"]["step"] == 7.0
    steps = whole(joined[FIRST + "down_proj"]["step"])
    assert [set(of_expert.flatten().tolist()) for of_expert in steps] == [{0.0}, {1.0}, {2.0}, {3.0}]
    again = stored_optimizer(graph, joined)
    assert again.keys() == kept.keys()
    for name, of_tensor in kept.items():
        assert torch.equal(whole(again[name]["exp_avg"]), whole(of_tensor["exp_avg"]))
        step = again[name]["step"]
        assert step == of_tensor["step"] or bool((whole(step) == of_tensor["step"]).all())


def test_an_expert_that_nothing_is_kept_of_is_as_if_it_had_never_been_stepped(source):
    graph, name = graph_of(source.config), FIRST + "1.down_proj.weight"
    shape = source.state[name].shape
    joined = optimizer_of_parameters(graph, {name: {"exp_avg": Constant(shape, 2.0), "step": 3.0, "lr_factor": 0.5}})
    assert list(joined) == [FIRST + "down_proj"]
    expected = {"exp_avg": (0.0, 2.0), "step": (0.0, 3.0), "lr_factor": (1.0, 0.5)}
    for key, (other, own) in expected.items():
        values = whole(joined[FIRST + "down_proj"][key])
        assert bool((values[1] == own).all()) and bool((values[[0, 2, 3]] == other).all()), key


def test_slices_of_a_parameter_are_each_element_once_in_its_order(source):
    graph = graph_of(source.config)
    tensors, size = graph.held()[FIRST + "gate_up_proj"], 4 * 128 * 32
    # Where ranks' pieces begin and end, within tensors and between them.
    borders = [0, 5, 64 * 32, 64 * 32 + 1, 3 * 64 * 32, size]
    found = []
    for start, stop in itertools.pairwise(borders):
        pieces = list(slices_of(tensors, graph.sizes, start, stop))
        assert [place for *_, place in pieces] == [0, *torch.tensor([b - a for _, a, b, _ in pieces]).cumsum(0).tolist()[:-1]]
        found += [(tensor.name, number) for tensor, first, last, _ in pieces for number in range(first, last)]
    assert found == [(tensor.name, number) for tensor in tensors for number in range(64 * 32)]


@pytest.mark.parametrize("ours", [True, False], ids=["written here", "of another tool"])
def test_a_checkpoint_of_the_classs_parameters_is_the_directory_of_the_stored_tensors(source, tmp_path, ours, monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK_ELEMENTS", 1000)
    folder, kept = tmp_path / "checkpoint", moments(source)
    folder.mkdir()
    write_zero3(folder, source.config, source.state, 3, optimizer=kept)
    if not ours:
        for file in ("config.json", "files.json", "progress.json"):
            (folder / TAG / file).unlink()
        source.config.save_pretrained(folder)
    opened = open_source(folder)
    assert opened.state.keys() == source.state.keys() == opened.optimizer.keys()
    for name, rows in source.state.items():
        assert torch.equal(whole(opened.state[name]), whole(rows)), name
        assert torch.equal(whole(opened.optimizer[name]["exp_avg"]), whole(rows)), name
        step = opened.optimizer[name]["step"]
        assert step == kept[name]["step"] or bool((whole(step) == kept[name]["step"]).all())
