"""ZeRO-3 files written without DeepSpeed against DeepSpeed's own reader."""

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, graph_of, target_config
from pipeline.growth import streaming
from pipeline.growth.fused_parameters import parameters_of
from pipeline.growth.huggingface import MappedTensor, open_huggingface
from pipeline.growth.plan import plan_growth
from pipeline.growth.zero_files import TAG, write_zero3
from pipeline.recipe import GrowthConfig, TargetConfig
from tests.damages import full_disk
from tests.families import WITH_A_MIXTURE
from tests.pipeline.growth.models import whole


@pytest.fixture
def grown(tmp_path, tiny_model):
    """A maker of (configuration, state) of a grown model whose tensors do not divide by 3."""

    def grow(family="gpt2", **options):
        # Vectors of 64 elements do not divide by 3, biases of 35 words not by 2.
        tiny_model(family, vocab=35, **options).float().save_pretrained(tmp_path / "source")
        source = open_huggingface(tmp_path / "source")
        config = target_config(source.config, TargetConfig(hidden_size=64, num_hidden_layers=4))
        plan = plan_growth(source.config, config, GrowthConfig(width="fpi", depth="stack"), 0)
        return config, plan.grow(source.state)

    return grow


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["mixtral", *WITH_A_MIXTURE])
def test_deepspeed_reads_the_grown_weights_back(tmp_path, grown, family, tied, world_size, monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK_ELEMENTS", 1000)
    config, state = grown(family, tied=tied)
    (tmp_path / "out").mkdir()
    write_zero3(tmp_path / "out", config, state, world_size)
    read = get_fp32_state_dict_from_zero_checkpoint(tmp_path / "out")
    parameters = parameters_of(graph_of(config), state)
    for name, tensor in parameters.items():
        assert torch.equal(read[name], whole(tensor)), name
    assert set(read) - set(parameters) == (set(FAMILIES[family].head_alias) if tied else set())
    # What DeepSpeed reads loads into the model whole.
    model = FAMILIES[family].model_class(config)
    assert not any(model.load_state_dict(read, strict=True))


def moment(shape, seed):
    return MappedTensor(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("world_size", [1, 3])
def test_moments_and_steps_lie_beside_the_weights(tmp_path, grown, world_size):
    config, state = grown()
    moments = {
        name: {
            "step": 7.0 if "h.1." in name else 3.0,
            "exp_avg": moment(tensor.shape, 2 * i),
            "exp_avg_sq": moment(tensor.shape, 2 * i + 1),
        }
        for i, (name, tensor) in enumerate(state.items())
    }
    (tmp_path / "out").mkdir()
    written = []
    write_zero3(tmp_path / "out", config, state, world_size, optimizer=moments, dtype=torch.bfloat16, progress=written.append)
    files = [
        torch.load(tmp_path / "out" / TAG / f"bf16_zero_pp_rank_{r}_mp_rank_00_optim_states.pt", mmap=True, weights_only=True)
        for r in range(world_size)
    ]
    shapes = torch.load(tmp_path / "out" / TAG / "zero_pp_rank_0_mp_rank_00_model_states.pt")["param_shapes"]
    seen = set()
    for number, group in enumerate(shapes):
        kept = [file["optimizer_state_dict"]["optimizer_state_dict"]["state"][number] for file in files]
        for key in ("exp_avg", "exp_avg_sq"):
            at = 0
            for name, shape in group.items():
                size = -(-shape.numel() // world_size)
                pieces = torch.cat([rank[key][at : at + size] for rank in kept])
                assert torch.equal(pieces[: shape.numel()].reshape(shape), whole(moments[name][key])), (name, key)
                assert (pieces[shape.numel() :] == 0).all()
                at += size
                seen.add(name)
        assert {float(rank["step"]) for rank in kept} == {moments[name]["step"] for name in group}
    assert seen == set(state)
    read = get_fp32_state_dict_from_zero_checkpoint(tmp_path / "out")
    assert all(torch.equal(read[name], whole(tensor)) for name, tensor in state.items())
    padded = sum(-(-torch.Size(tensor.shape).numel() // world_size) * world_size for tensor in state.values())
    assert sum(written) == 3 * 4 * padded


def test_a_full_disk_is_said_in_a_sentence(tmp_path, grown):
    config, state = grown()
    (tmp_path / "out").mkdir()
    with full_disk(100_000), pytest.raises(UserError, match="free disk space or name another directory"):
        write_zero3(tmp_path / "out", config, state, 1)
    assert not (tmp_path / "out" / "latest").exists()
