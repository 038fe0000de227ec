"""DeepSpeed's JSON: what resolves, what is refused, and in which words."""

import copy
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.op_builder import AsyncIOBuilder
from deepspeed.runtime.config import DeepSpeedConfig

from pipeline.common.errors import UserError
from pipeline.deepspeed.config import SECTIONS
from pipeline.deepspeed.monitors import MONITORS as DEEPSPEED_MONITORS
from pipeline.recipe import Recipe, load_recipe
from pipeline.recipe.ds_file import ABSENT, MONITORS, _DeepSpeedFile
from pipeline.training import ds_config
from pipeline.training.ds_config import (
    compute_dtype,
    division,
    for_engine,
    load_ds_config,
    offloads_optimizer,
    same_run,
    zero_stage,
)
from pipeline.training.toolchain import check_toolchain

ROOT = Path(__file__).parents[3]


@cache
def quickstart(overrides: tuple[str, ...]) -> Recipe:
    return load_recipe(ROOT / "launch" / "recipes" / "quickstart.yaml", list(overrides))


@pytest.fixture
def resolve(tmp_path, monkeypatch):
    """Resolve a configuration for the quickstart's recipe on two ranks, on a machine that lacks nothing for compiling."""
    monkeypatch.setattr(ds_config, "check_toolchain", lambda *_, **__: None)
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda *_, **__: True)

    def load(config: dict, *overrides: str, ranks: int = 2) -> dict:
        path = tmp_path / "ds.json"
        path.write_text(json.dumps(config))
        return load_ds_config(path, quickstart(overrides), ranks)

    return load


def test_every_shipped_configuration_resolves(resolve):
    found = {}
    for path in (ROOT / "ds_configs").glob("*.json"):
        config = resolve(json.loads(path.read_text()))
        assert "auto" not in str(config), path
        found[path.stem] = (zero_stage(config), offloads_optimizer(config))
    assert found == {
        "zero0": (0, False),
        "zero1": (1, False),
        "zero2": (2, False),
        "zero3": (3, False),
        "zero2_offload": (2, True),
        "zero3_offload": (3, True),
        "zero3_nvme": (3, True),
    }


def test_a_batch_divides_over_ranks_and_micro_batches():
    assert [division(32, most, ranks, "x") for ranks, most in [(1, 32), (2, 32), (2, 5), (4, 3)]] == [
        (32, 1),
        (16, 1),
        (4, 4),
        (2, 4),
    ]
    with pytest.raises(UserError, match=r"stages\.full: train_batch_size 32 does not divide over 3 ranks; choose a mul"):
        division(32, 8, 3, "stages.full")


def test_a_batch_is_refused_by_where_it_is_named(resolve, tmp_path):
    named = {f"{tmp_path}/ds.json": ({"train_batch_size": 32}, []), "recipe": ({}, ["train_batch_size=32"])}
    for origin, (config, words) in named.items():
        with pytest.raises(UserError, match=f"^{origin}: train_batch_size 32 does not divide over 3 ranks"):
            resolve(config, *words, ranks=3)


def zero(stage: object, **keys: object) -> dict[str, dict[str, object]]:
    return {"zero_optimization": {"stage": stage, **keys}}


ZERO3, BF16 = zero(3), {"bf16": {"enabled": True}}
OPTIMIZER_ON_DISK = {"device": "nvme", "nvme_path": "disk"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"optimizer": {"type": "Adam"}}, "optimizer: belongs in `optimizer` of the recipe"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler: belongs in `schedule` of the recipe"),
        ({"activation_checkpointing": {}}, "belongs in `activation_checkpointing` of the recipe"),
        ({"flops_profiler": {"enabled": True}}, "belongs in `flops` of the recipe"),
        (zero(3, offload_param={"device": "nvme"}), "nvme is not supported with growth"),
        (zero(2, offload_optimizer=OPTIMIZER_ON_DISK), "nvme goes with ZeRO stage 3, not 2"),
        (zero(3, offload_optimizer={"device": "nvme"}), "nvme_path: the key is missing"),
        (zero(0, offload_optimizer={"device": "cpu"}), "cpu goes with ZeRO stage 1 or 2 or 3"),
        (zero(2, offload_param={"device": "cpu"}), "offload_param.device: cpu goes with ZeRO"),
        (zero(3, zero_hpz_partition_size=3), "divide the number of ranks, 2"),
        (zero(2, zero_hpz_partition_size=2), "needs ZeRO stage 3"),
        (zero(3, mics_shard_size=2), "mics_shard_size"),
        (zero(2, round_robin_gradients=True), "round_robin_gradients: DeepSpeed then writes"),
        (zero("auto"), "zero_optimization.stage: 0, 1, 2 or 3 is expected (got 'auto')"),
        (zero(2, compute_grad_norm=False), "zero_optimization.compute_grad_norm"),
        ({"gradient_clipping": -1}, "gradient_clipping: a number from 0 on"),
        ({"gradient_clipping": 10**400}, "gradient_clipping: a number from 0 on"),
        ({"train_batch_size": 10**400}, 'train_batch_size: a positive number or "auto" is expected, at most 2147483647'),
        ({"train_batch_size": 2**31}, 'train_batch_size: a positive number or "auto" is expected, at most 2147483647'),
        (zero(3, offload_optimizer={"device": "cpu", "ratio": 0.5}), "offload_optimizer.ratio"),
        ({"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}, "masters are float32"),
        ({"fp16": {"enabled": True, "fp16_master_weights_and_grads": True}}, "masters are float32"),
        # What DeepSpeed itself refuses.
        (BF16 | {"fp16": {"enabled": True}}, "bf16.enabled and fp16.enabled are both true; set one of them to false"),
        ({"communication_data_type": "int8"}, "communication_data_type: Input should be 'fp32', 'bf16' or 'fp16'"),
        ({"communication_data_type": 16}, "communication_data_type: Input should be"),
        ({"timers": {"throughput": {"enabled": 1}}}, "timers.throughput.enabled: Input should be a valid boolean"),
        ({"timers": {"throughput": False}}, "timers.throughput: "),
        ({"timers": {"throughput": {"synchronised": False}}}, "timers.throughput.synchronised"),
        ({"timers": {"step": {"enabled": False}}}, "timers.step"),
        ({"timers": "off"}, "timers: "),
        (BF16 | {"bf16": {"enabled": True, "check_grad_overflow": 3}}, "bf16.check_grad_overflow"),
        ({"data_types": {"grad_accum_dtype": "fp8"}}, "data_types.grad_accum_dtype: Input should be 'fp32'"),
        ({"data_types": {"param_dtype": "fp64"}}, "data_types.param_dtype: Input should be 'fp32'"),
        ({"data_types": {"buffer_dtype": 2}}, "data_types.buffer_dtype: Input should be 'fp32'"),
        ({"data_types": {"keep_in_fp32_modules": "norm"}}, 'keep_in_fp32_modules: a list of name patterns or "auto"'),
        ({"data_types": {"param_dtype": "fp16"}}, "param_dtype: the model runs in torch.float32"),
        (BF16 | ZERO3 | {"data_types": {"param_dtype": "float"}}, "param_dtype: the model runs in torch.bfloat16"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "grad_accum_dtype: ZeRO stage 0 adds gradients up in"),
        (BF16 | {"data_types": {"grad_accum_dtype": "fp32"}}, "runs in, torch.bfloat16; remove the key, or choose stage 1"),
        ({"data_types": {"grad_dtype": "fp32"}}, "unknown key 'data_types.grad_dtype'; did you mean 'grad_accum_dtype'?"),
        (ZERO3 | {"gradient_predivide_factor": 2.0}, "gradient_predivide_factor: from stage 1 on ZeRO averages"),
        (ZERO3 | {"prescale_gradients": True}, "prescale_gradients: from stage 1 on ZeRO averages"),
        ({"gradient_predivide_factor": 0}, "gradient_predivide_factor: Input should be greater than 0"),
        ({"prescale_gradients": "yes"}, "prescale_gradients: Input should be a valid boolean"),
        ({"steps_per_print": 0}, "steps_per_print: Input should be greater than 0"),
        ({"steps_per_print": "often"}, "steps_per_print: Input should be a valid integer"),
        ({"wall_clock_breakdown": "x"}, "wall_clock_breakdown: Input should be a valid boolean"),
        ({"aio": []}, "aio: "),
        ({"aio": {"block_size": "1M"}}, "aio.block_size: Input should be a valid integer"),
        ({"aio": {"queue_depth": 0}}, "aio.queue_depth: Input should be greater than 0"),
        ({"aio": {"thread_count": 2}}, "unknown key 'aio.thread_count'"),
        ({"aio": {"use_gds": "x"}}, "aio.use_gds: Input should be a valid boolean"),
        ({"comms_logger": True}, "comms_logger: an object of keys is expected"),
        ({"comms_logger": {"prof_ops": "all"}}, "comms_logger.prof_ops: Input should be a valid list"),
        ({"comms_logger": {"enable": True}}, "unknown key 'comms_logger.enable'; did you mean 'enabled'?"),
        ({"checkpoint": "fast"}, "checkpoint: "),
        ({"checkpoint": {"tag_validation": "maybe"}}, "checkpoint.tag_validation: Input should be 'ignore', 'warn' or 'fail'"),
        ({"checkpoint": {"parallel_write": {"pipeline_stage": 3}}}, "pipeline_stage: Input should be a valid boolean"),
        ({"checkpoint": {"writers": {"type": "fast"}}}, "unknown key 'checkpoint.writers'"),
        (zero(3, stage3_module_granularity_threshold="x"), "granularity_threshold: Input should"),
        (zero(3, zero_module_granularity_threshold=1), "unknown key 'zero_optimization.zero_mod"),
        (zero(3, leaf_module=1), "zero_optimization: DeepSpeed refuses it: leaf_module"),
        (zero(2, cpu_offload=True), "cpu_offload: DeepSpeed has replaced it; use offload_optimizer"),
        (zero(True), "zero_optimization.stage: 0, 1, 2 or 3 is expected (got True)"),
        (zero(3, reduce_bucket_size=0), "reduce_bucket_size: Input should be greater than 0"),
        (zero(3, reduce_bucket_size=10**30), "reduce_bucket_size: a whole number of 64 bits"),
        (zero(1, allgather_bucket_size=7), "allgather_bucket_size: an even number is expected"),
        (zero(1, legacy_stage1=True), "legacy_stage1: DeepSpeed has had another stage 1"),
        ({"aio": {"block_size": 1 << 31}}, "aio.block_size: Input should be less than 2147483648"),
        ({"fp16": {"loss_scale": "big"}}, "fp16.loss_scale: fp16.loss_scale must be a number"),
        ({"tensorboard": {"enabled": "perhaps"}}, "tensorboard.enabled: Input should be a valid boolean"),
    ],
)
def test_what_cannot_be_had_or_deepspeed_refuses_is_refused_by_key(resolve, config, words):
    with pytest.raises(UserError, match=r"ds\.json: ") as refusal:
        resolve(config)
    assert words in str(refusal.value)


WRONG = (True, -1, 0, 0.5, 1e30, float("nan"), "x", "auto", None, [], [1], {}, {"a": 1})


def keys() -> list[tuple[str, ...]]:
    """Every key of every section, those of DeepSpeed's own models by the name that a file has them under."""
    found = [(name,) for name in _DeepSpeedFile.model_fields]
    for name, field in _DeepSpeedFile.model_fields.items():
        found += [(name, key) for key in getattr(field.annotation, "model_fields", ())]
    for section, model in (SECTIONS | {name: DEEPSPEED_MONITORS[name].settings for name in MONITORS}).items():
        found += [(*section.split("."), field.alias or name) for name, field in model.model_fields.items()]
    return found


def refusals(resolve, key: Sequence[str], values: Sequence[object] = WRONG) -> list[str]:
    """The sentences by which values of a key are refused."""
    found = []
    for value in values:
        config = copy.deepcopy(ZERO3)
        place = config
        for part in key[:-1]:
            place = place.setdefault(part, {})
        place[key[-1]] = value
        try:
            resolve(config)
        except UserError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("key", keys(), ids=".".join)
def test_any_value_of_any_key_is_taken_or_refused_in_one_sentence(resolve, key):
    assert all("ds.json: " in sentence and "\n" not in sentence for sentence in refusals(resolve, key))


def test_what_deepspeed_reads_of_a_value_is_what_the_run_goes_by(resolve):
    zero = {"stage": 3, "reduce_bucket_size": 5e8, "overlap_comm": "no", "stage3_max_live_parameters": "auto"}
    config = resolve({"zero_optimization": zero, "bf16": {"enabled": "off"}})
    assert config["zero_optimization"] == {"stage": 3, "reduce_bucket_size": 500_000_000, "overlap_comm": False}
    assert compute_dtype(config) is torch.float32


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_deepspeed_would_wait_for_in_every_step_is_off_unless_the_file_asks_for_it(resolve, stage):
    plain, written = zero(stage), zero(stage) | BF16
    config = resolve(written, ranks=1)
    assert config["timers"] == {"throughput": {"enabled": False}} and config["bf16"]["check_grad_overflow"] is False
    assert not DeepSpeedConfig(copy.deepcopy(config)).timers_config.enabled
    assert "check_grad_overflow" not in resolve(plain).get("bf16", {})
    asked = {"bf16": {"enabled": True, "check_grad_overflow": True}, "timers": {"throughput": {"synchronized": False}}}
    config = resolve(plain | asked, ranks=1)
    assert config["timers"] == {"throughput": {"synchronized": False, "enabled": False}}
    assert config["bf16"]["check_grad_overflow"] is True
    asked["timers"] = {"throughput": {"enabled": True}}
    assert DeepSpeedConfig(resolve(plain | asked, ranks=1)).timers_config.enabled
    # A run that was started before this default goes on under it.
    assert same_run(resolve(written)) == same_run(resolve(plain | asked))


@pytest.mark.parametrize(
    ("key", "value"), [("leaf_module", {"classes": ["GPT2Block"]}), ("stage3_module_granularity_threshold", 1000)]
)
@pytest.mark.parametrize("part", [{"submodel_layers": 1}, {"trainable": ["head"]}])
def test_layers_are_fetched_as_wholes_only_where_every_stage_trains_all_of_them(resolve, key, value, part):
    config = {"zero_optimization": {"stage": 3, key: value}}
    whole, some = {"name": "all", "steps": 2}, {"name": "some", "steps": 2, **part}
    assert resolve(config, f"stages={json.dumps([whole])}")["zero_optimization"][key] == value
    with pytest.raises(UserError, match=rf"{key}: goes with stages that train the whole model, and stages\.some trains a part"):
        resolve(config, f"stages={json.dumps([whole, some])}")


def test_auto_blocks_of_the_recipe_are_left_out(resolve):
    config = resolve({"optimizer": "auto", "scheduler": "auto", "zero_optimization": {"stage": 2}})
    assert "optimizer" not in config and "scheduler" not in config


@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="a GPU has these")
def test_what_needs_a_gpu_is_refused_without_one(resolve, monkeypatch):
    # Some CPUs compute it.
    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: False)
    with pytest.raises(UserError, match=r"fp16\.enabled: this device does not run fp16"):
        resolve({"fp16": {"enabled": True}, "zero_optimization": {"stage": 2}})
    for key in ("zero_quantized_weights", "zero_quantized_gradients"):
        with pytest.raises(UserError, match=f"{key}: needs a GPU's kernels"):
            resolve({"zero_optimization": {"stage": 3, key: True}})


def test_fp16_goes_with_partitions_and_bf16_with_every_stage(resolve, monkeypatch):
    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
    assert resolve({"fp16": {"enabled": True}, "zero_optimization": {"stage": 1}})["fp16"]["enabled"]
    assert resolve({"bf16": {"enabled": True}})["bf16"]["enabled"]
    with pytest.raises(UserError, match="stage 0 does not support fp16"):
        resolve({"fp16": {"enabled": True}})


def without_libaio(monkeypatch):
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda *_, **__: False)


def without_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")


def without_headers(monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda _: "/nowhere")


def without_ninja(monkeypatch):
    monkeypatch.setattr("ninja.BIN_DIR", "")
    monkeypatch.setenv("PATH", "/nowhere")


NVME = (zero(3, offload_optimizer=OPTIMIZER_ON_DISK), ())
COMPILED = ({}, ("compile=true",))


@pytest.mark.parametrize(
    ("asked", "lacks", "words"),
    [
        (NVME, without_libaio, "offload_optimizer.device: nvme needs libaio's headers, .*libaio-dev.*, or choose cpu"),
        (NVME, without_compiler, r"offload_optimizer.device: nvme needs a C\+\+ compiler, .*is g\+\+.*, or choose cpu"),
        (NVME, without_headers, "offload_optimizer.device: nvme needs Python's headers, .*python3-dev.*, or choose cpu"),
        (NVME, without_ninja, "offload_optimizer.device: nvme needs ninja, .*ninja-build, or choose cpu"),
        (COMPILED, without_compiler, r"compile: torch.compile needs a C\+\+ compiler, .*is g\+\+.*, or leave `compile` out"),
        (COMPILED, without_headers, "compile: torch.compile needs Python's headers, .*python3-dev.*, or leave `compile` out"),
    ],
)
@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="on a GPU other compilers are used")
def test_what_compiling_lacks_is_said_by_its_debian_package(resolve, monkeypatch, tmp_path, asked, lacks, words):
    config, overrides = asked
    monkeypatch.setattr(ds_config, "check_toolchain", check_toolchain)
    monkeypatch.setenv("CXX", sys.executable)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda *_, **__: str(tmp_path))
    resolve(config, *overrides)
    lacks(monkeypatch)
    with pytest.raises(UserError, match=words):
        resolve(config, *overrides)


def test_state_on_a_disk_has_buffers_for_what_growth_keeps(resolve):
    config = zero(3, offload_optimizer={"device": "nvme", "nvme_path": "auto"})
    grown = resolve(config, "growth.optimizer_state=grow", "run_dir=here")["zero_optimization"]["offload_optimizer"]
    assert grown["buffer_count"] == 8 and grown["nvme_path"] == "here/nvme"
    assert "buffer_count" not in resolve(config, "run_dir=here")["zero_optimization"]["offload_optimizer"]


def test_what_no_step_depends_on_may_change_while_a_run_goes_on(resolve):
    offload = {"device": "nvme", "nvme_path": "auto"}
    first = resolve(zero(3, offload_optimizer=offload), "run_dir=runs/x")
    before = copy.deepcopy(first)
    extra = {"steps_per_print": 7, "wall_clock_breakdown": True, "comms_logger": {"enabled": True}, "aio": {"queue_depth": 2}}
    moved = resolve(zero(3, offload_optimizer=offload) | extra, "run_dir=./moved/x")
    assert same_run(moved) == same_run(first) and first == before
    elsewhere = resolve(zero(2, offload_optimizer={"device": "cpu"}), "run_dir=runs/x")
    assert same_run(elsewhere) == same_run(first)
    timed = resolve({"zero_optimization": {"stage": 2}, "timers": {"throughput": {"enabled": True}}}, "run_dir=runs/x")
    assert same_run(timed) == same_run(first)
    for change in ({"gradient_clipping": 3.0}, {"train_batch_size": 8}, {"bf16": {"enabled": True}}):
        assert same_run(first | change) != same_run(first)


ASKED = {
    "checkpoint.checkpoint_serialization": [False],
    "gradient_allreduce_op": ["sum", "max"],
    "managed_gradient_accumulation": [False, {"enabled": False}],
}
"""What asks for more than is done without the key, where true does not."""
UNASKED = {
    "checkpoint.checkpoint_serialization": [True],
    "gradient_allreduce_op": ["mean"],
    "managed_gradient_accumulation": [True],
    "tensor_parallel": [{"autotp_size": 0}],
}


@pytest.mark.parametrize("key", ABSENT)
def test_a_feature_that_does_not_go_with_growth_is_refused_with_its_reason_and_may_be_off(key, resolve):
    def written(value: object) -> dict[str, object]:
        section, _, name = key.rpartition(".")
        return {section: {name: value}} if section else {name: value}

    for value in ASKED.get(key, [{"enabled": True}, {"autotp_size": 2}, True]):
        with pytest.raises(UserError) as refused:
            resolve(written(value))
        assert f"{key}: not supported: {ABSENT[key]}; remove the key" in str(refused.value)
    for value in [None, "auto", *UNASKED.get(key, []), *([] if key in ASKED else [False, {"enabled": False}])]:
        assert key not in resolve(written(value))


class Watched(dict):
    """An object of a configuration that notes which keys are looked for in it, and in the objects within."""

    def __init__(self, asked: set[str], path: str = "", **content: object) -> None:
        super().__init__(content)
        self._asked, self._path = asked, path

    def _note(self, key: str) -> None:
        self._asked.add(self._path + key)

    def __contains__(self, key: object) -> bool:
        self._note(key)
        return super().__contains__(key)

    def __getitem__(self, key: str) -> object:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: object = None) -> object:
        self._note(key)
        return super().get(key, default)

    def keys(self) -> "Watched":
        # As in `if "optimizer" in config.keys()`.
        return self


def keys_that_deepspeed_reads() -> set[str]:
    """Every key that the installed DeepSpeed looks for in its JSON, sections apart that models of its own judge."""
    asked: set[str] = set()
    plain = ("checkpoint", "checkpoint.parallel_write", "data_types", "timers", "timers.throughput")
    within = {path: Watched(asked, f"{path}.") for path in plain}
    for path, holder in within.items():
        parent, _, name = path.rpartition(".")
        if parent:
            dict.__setitem__(within[parent], name, holder)
    top = {path: holder for path, holder in within.items() if "." not in path}
    DeepSpeedConfig(Watched(asked, train_batch_size=2, train_micro_batch_size_per_gpu=2, **top))
    return asked


@pytest.mark.slow
def test_every_key_that_the_installed_deepspeed_reads_is_supported_or_refused_with_its_reason(resolve):
    read = keys_that_deepspeed_reads()
    # What is watched is all of it: keys of every way in which DeepSpeed looks.
    assert read >= {"optimizer", "aio", "log_level", "vocabulary_size", "timers", "data_types.param_dtype"}
    assert read >= {"checkpoint.load_universal", "checkpoint.parallel_write.pipeline_stage", "checkpoint.writer"}
    # An unknown key is one whatever it holds, but for nothing and "auto".
    refused = {key: refusals(resolve, key.split("."), (True, "x")) for key in sorted(read)}
    unknown = [each for key, found in refused.items() for each in found if "unknown key" in each and f"'{key}'" in each]
    assert not unknown, "\n".join(unknown)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical", None])
def test_log_level_and_disable_python_gc_pass_through_and_may_change_while_a_run_goes_on(resolve, level):
    config = resolve({"log_level": level, "disable_python_gc": True}, ranks=1)
    read = DeepSpeedConfig(for_engine(config, 1))
    assert read.log_level == level and read.disable_python_gc is True
    assert same_run(config) == same_run(resolve({}, ranks=1))
    with pytest.raises(UserError, match="log_level: Input should be 'debug'"):
        resolve({"log_level": "loud"})
    with pytest.raises(UserError, match="disable_python_gc: Input should be a valid boolean"):
        resolve({"disable_python_gc": "yes"})


def test_ranks_that_share_sequences_divide_the_ranks_and_the_batch_is_of_sequences(resolve):
    config = resolve({"sequence_parallel_size": 2}, ranks=4)
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 2 == config["train_batch_size"]
    # DeepSpeed counts every rank's micro-batches.
    engine = for_engine(config, 4)
    assert engine["train_batch_size"] == 2 * config["train_batch_size"] and "sequence_parallel_size" not in engine
    assert same_run(config) == same_run(resolve({}, ranks=4))
    with pytest.raises(UserError, match="sequence_parallel_size: 3 does not divide the number of ranks, 4"):
        resolve({"sequence_parallel_size": 3}, ranks=4)
    with pytest.raises(UserError, match="sequence_parallel_size: Input should be greater than 0"):
        resolve({"sequence_parallel_size": 0})
