"""Growth written into live engines: exact masters, rounded weights, and no rank reading more than its pieces."""

import math

import pytest
import torch
from deepspeed.ops.op_builder import AsyncIOBuilder
from deepspeed.runtime.swap_tensor import optimizer_utils
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.common.errors import UserError
from pipeline.deepspeed.saving import saved_from_disk
from pipeline.families import FAMILIES, ActiveLayers, scratch_config, target_config
from pipeline.growth.fused_parameters import parameters_of
from pipeline.growth.plan import plan_growth
from pipeline.growth.sources import open_source
from pipeline.growth.zero_checkpoint import read_zero_checkpoint
from pipeline.recipe import GrowthConfig, ModelConfig, OptimizerConfig, TargetConfig, TrainStage
from pipeline.training import distributed
from pipeline.training.engine import build
from pipeline.training.losses import summed_loss
from pipeline.training.parameter_groups import cut
from tests.distributed.engines import built, engine_config, full_weight, is_built
from tests.ranks import run_ranks


class Watched:
    """A tensor that remembers how many elements were read of it, in all and at once."""

    def __init__(self, tensor):
        self.shape = tensor.shape
        self.most = self.read = 0
        self._tensor = tensor

    def rows(self, start, stop):
        values = self._tensor.rows(start, stop)
        self.read += values.numel()
        self.most = max(self.most, values.numel())
        return values


def grown(directory):
    source = open_source(directory)
    config = target_config(source.config, TargetConfig(hidden_size=40, num_hidden_layers=3))
    growth = GrowthConfig(width="nai", noise=0.1, depth="stack")
    plan = plan_growth(source.config, config, growth, 3)
    return source.family, config, plan.grow(source.state)


def check_engine(directory, stage, bf16):
    family, config, state = grown(directory)
    watched = {name: Watched(tensor) for name, tensor in state.items()}
    ds_config = engine_config(stage, distributed.world_size(), bf16=bf16)
    trained = build(family, config, watched, ds_config, OptimizerConfig(), cut(3, []), "sdpa")
    dtype = torch.bfloat16 if bf16 else torch.float32
    without_zero = {}
    if stage == 0 and bf16:
        groups = zip(trained.engine.optimizer.fp16_groups, trained.engine.optimizer.fp32_groups, strict=True)
        without_zero = {low: high for lows, highs in groups for low, high in zip(lows, highs, strict=True)}
    parameters = parameters_of(family.graph(config), state)
    for name, parameter in trained.module.named_parameters():
        whole = parameters[name].rows(0, parameters[name].shape[0])
        held = getattr(parameter, "ds_tensor", parameter).detach()
        assert held.dtype == dtype
        # Without ZeRO DeepSpeed has no way to ask for the master of a weight in bf16.
        master = without_zero[parameter] if without_zero else full_weight(parameter)
        assert torch.equal(master, whole), f"{name}: master"
        if stage == 3:
            size, start = held.numel(), distributed.rank() * held.numel()
            expected = whole.flatten()[start : start + size].to(dtype)
            assert torch.equal(held[: len(expected)], expected), f"{name}: piece"
            width = whole[0].numel()
            # Of a parameter that is joined from several, each is watched by itself.
            assert name not in watched or watched[name].most <= size + 2 * width, (
                f"{name}: {watched[name].most} elements read at once"
            )
        else:
            assert torch.equal(held, whole.to(dtype)), f"{name}: weight"
            assert name not in watched or watched[name].read == whole.numel(), f"{name}: {watched[name].read} elements computed"
    input_ids = torch.arange(12)[None] % config.vocab_size
    trained.engine.eval()
    with torch.no_grad():
        logits = trained.logits(input_ids).tokens
    trained.close()
    return logits.float()


def check_all(directory):
    return {(stage, bf16): check_engine(directory, stage, bf16) for stage in (0, 1, 2, 3) for bf16 in (False, True)}


FULL = pytest.mark.full


@pytest.mark.parametrize(
    ("family", "ranks"),
    [("gpt2", 2), ("bert", 3), *[pytest.param(*each, marks=FULL) for each in (("gpt2", 3), ("bert", 2), ("qwen2_moe", 3))]],
)
def test_live_partitions_hold_the_grown_weights(tmp_path, family, ranks):
    torch.manual_seed(1)
    described = ModelConfig(family=family, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, vocab_size=35)
    model = FAMILIES[family].model_class(scratch_config(described, 35, 0, 13))
    model.save_pretrained(tmp_path)
    results = run_ranks(check_all, ranks, tmp_path)

    family_table, config, state = grown(tmp_path)
    plain = family_table.model_class(config)
    parameters = parameters_of(family_table.graph(config), state)
    plain.load_state_dict({name: rows.rows(0, rows.shape[0]) for name, rows in parameters.items()}, strict=False)
    plain.tie_weights()
    with torch.no_grad():
        expected = plain.eval()(input_ids=torch.arange(12)[None] % 35).logits
    for result in results:
        for (stage, bf16), logits in result.items():
            # bf16 has 8 bits: 2^-8 of values up to about 1, through a few layers.
            assert (logits - expected).abs().max() < (0.03 if bf16 else 1e-5), (stage, bf16)


def grow_at_size(directory):
    """Grow GPT-2 {8, 512} into {16, 1024} on this rank; return (loss on a fixed batch, most elements read at once)."""
    source = open_source(directory)
    config = target_config(source.config, TargetConfig(hidden_size=1024, num_hidden_layers=16))
    growth = GrowthConfig(width="fpi", depth="last_layer")
    plan = plan_growth(source.config, config, growth, 3)
    watched = {name: Watched(tensor) for name, tensor in plan.grow(source.state).items()}
    ds_config = engine_config(3, distributed.world_size(), bf16=True)
    trained = build(source.family, config, watched, ds_config, OptimizerConfig(), cut(16, []), "sdpa")
    trained.engine.eval()
    with torch.no_grad():
        loss = summed_loss(trained.logits(BATCH).tokens, BATCH).item() / BATCH.numel()
    for name, tensor in watched.items():
        rows, width = tensor.shape[0], max(1, math.prod(tensor.shape[1:]))
        assert tensor.most <= rows * width / distributed.world_size() + 3 * width, f"{name}: {tensor.most} elements at once"
    return loss


BATCH = torch.arange(64)[None] * 701


@pytest.mark.full
def test_growth_at_size_reads_pieces_only_and_keeps_the_loss(tmp_path):
    """51 million parameters into 254 million, on three ranks."""
    torch.manual_seed(1)
    config = GPT2Config(n_embd=512, n_layer=8, n_head=8)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = summed_loss(model(BATCH).logits, BATCH).item() / BATCH.numel()
    for loss in run_ranks(grow_at_size, 3, tmp_path, timeout=600):
        # bf16 against fp32: 2^-8 of a loss near 11, averaged over 64 tokens.
        assert loss == pytest.approx(expected, abs=0.02)


# --- going on from a checkpoint ---------------------------------------------------------------------

SMALL = ModelConfig(family="gpt2", hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
CUT = cut(2, [TrainStage(name="half", steps=1, submodel_layers=1)])
OPTIMIZERS = {
    "adamw": OptimizerConfig(lr=3e-3),
    "lion": OptimizerConfig(name="lion", lr=3e-4),
    "muon": OptimizerConfig(name="muon", lr=3e-3, muon_lr=0.02),
}
CPU = {"device": "cpu"}
WAYS = {
    "lion ZeRO-3": ("lion", {"stage": 3}, False),
    "muon ZeRO-2": ("muon", {"stage": 2}, False),
    "muon ZeRO-3": ("muon", {"stage": 3, "offload_optimizer": CPU}, True),
    "adamw ZeRO-0 bf16": ("adamw", {"stage": 0}, True),
    "lion ZeRO-1 bf16": ("lion", {"stage": 1}, True),
}
ON_DISK = {
    f"{name} disk {'bf16' if bf16 else 'fp32'}": (name, {"stage": 3, "offload_optimizer": {"device": "nvme"}}, bf16)
    for name, bf16 in (("adamw", False), ("muon", True), ("lion", False))
}


def steps(trained, begin, end) -> list[float]:
    """Take these steps of a fixed training, in which the upper layer learns alone in one; return their losses."""
    draws = torch.randint(0, 35, (6, 2, 13), generator=torch.Generator().manual_seed(3))
    losses = []
    for step in range(begin, end):
        trained.learn(ActiveLayers.top(2, 1) if step == 1 else ActiveLayers.whole(2))
        ids = draws[step, distributed.rank()][None]
        loss = summed_loss(trained.logits(ids).tokens, ids) / 12
        trained.engine.backward(loss)
        trained.engine.step()
        losses.append(loss.item())
    return losses


def go_on(directory, ways) -> dict:
    """Return each way's losses of 6 steps, undisturbed and with a checkpoint after the third."""
    optimizer_utils.MIN_AIO_BYTES = 1024
    found = {}
    for number, (way, (name, zero, bf16)) in enumerate(ways.items()):
        if zero.get("offload_optimizer", {}).get("device") == "nvme":
            zero = zero | {"offload_optimizer": {"device": "nvme", "nvme_path": str(directory / f"disk{number}")}}
        ds_config = engine_config(zero, 2, bf16=bf16, aio={"block_size": 1024})
        config = scratch_config(SMALL, 35, 0, 13)
        trained = built(config, ds_config, OPTIMIZERS[name], CUT)
        undisturbed = steps(trained, 0, 3)
        with saved_from_disk(trained.engine):
            trained.engine.save_checkpoint(str(directory / str(number)), tag="here", save_latest=False)
        config.save_pretrained(directory / str(number) / "here")
        torch.distributed.barrier()
        undisturbed += steps(trained, 3, 6)
        trained.close()
        source = read_zero_checkpoint(directory / str(number) / "here")
        trained = built(config, ds_config, OPTIMIZERS[name], CUT, source)
        found[way] = (undisturbed, steps(trained, 3, 6), {key for kept in source.optimizer.values() for key in kept})
        trained.close()
    return found


def check_going_on(directory, ways) -> None:
    keys = {
        "adamw": {"exp_avg", "exp_avg_sq", "step"},
        "lion": {"exp_avg"},
        "muon": {"exp_avg", "exp_avg_sq", "step", "momentum_buffer"},
    }
    for found in run_ranks(go_on, 2, directory, ways):
        for way, (undisturbed, resumed, kept) in found.items():
            assert resumed == undisturbed[3:], way
            assert undisturbed[5] < undisturbed[0], way
            assert kept == keys[ways[way][0]], way


def test_every_optimizer_goes_on_to_the_bit(tmp_path):
    check_going_on(tmp_path, WAYS)


@pytest.mark.full
@pytest.mark.skipif(not is_built(AsyncIOBuilder()), reason="DeepSpeed's async_io is not compiled; make test-full compiles it")
def test_masters_on_a_disk_go_on_to_the_bit(tmp_path):
    check_going_on(tmp_path, ON_DISK)


def build_unaligned(directory) -> str:
    """Return why masters on a disk are refused whose gradients would lie across the disk's blocks."""
    optimizer_utils.MIN_AIO_BYTES = 1024
    config = scratch_config(SMALL.model_copy(update={"hidden_size": 24}), 35, 0, 13)
    zero = {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": str(directory)}}
    ds_config = engine_config(zero, 2, aio={"block_size": 1024})
    with pytest.raises(UserError) as refusal:
        built(config, ds_config, OPTIMIZERS["adamw"], CUT)
    return str(refusal.value)


@pytest.mark.full
@pytest.mark.skipif(not is_built(AsyncIOBuilder()), reason="DeepSpeed's async_io is not compiled; make test-full compiles it")
def test_gradients_across_a_disks_blocks_are_refused(tmp_path):
    for words in run_ranks(build_unaligned, 2, tmp_path):
        assert "nvme does not fit" in words and "over 2 ranks" in words
