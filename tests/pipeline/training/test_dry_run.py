"""What is estimated of a model before a run, against Hugging Face's own count and arithmetic by hand."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, graph_of, scratch_config
from pipeline.flops.counts import ForwardFlops, training_step
from pipeline.flops.peaks import Peak
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.integrity import seal
from pipeline.growth.zero_files import TAG, write_zero3
from pipeline.recipe import ModelConfig, OptimizerConfig, load_recipe
from pipeline.training.directory.checkpoints import TrainState
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.footprint import memory_by_stage, parameters_by_kind
from pipeline.training.monitoring.utilization import Device
from pipeline.training.preparation.preparation import Planned, preview_run
from pipeline.training.run.dry_run import DryRun
from pipeline.training.run.dry_run_page import notes, page_of
from tests.data_prep.tokenizers.forms import FORMS
from tests.families import DENSE
from tests.pipeline.growth import check
from tests.shards import write_prepared

QUICKSTART = Path(__file__).parents[3] / "launch" / "recipes" / "quickstart.yaml"


def previewed(directory: Path, *overrides: str, tokens: int | None = 100_000, saved: TrainState | None = None) -> Planned:
    """What the quickstart with these overrides would be as a run in `directory`."""
    recipe = load_recipe(QUICKSTART, list(overrides))
    ds_config = {"train_batch_size": recipe.train_batch_size, "train_micro_batch_size_per_gpu": 8}
    return preview_run(recipe, ds_config, RunDirectory(directory), 1, tokens, saved)


def described(family: str, *, tied: bool = True):
    model = ModelConfig(
        family=family,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2 if FAMILIES[family].grouped else None,
        tie_word_embeddings=tied,
    )
    return scratch_config(model, vocab_size=101, eos_id=0, sequence_length=16)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", DENSE)
def test_parameters_add_up_to_what_the_model_has(family, tied):
    config = described(family, tied=tied)
    with torch.device("meta"):
        model = FAMILIES[family].model_class(config)
    model.tie_weights()
    kinds = parameters_by_kind(config)
    assert sum(kinds.values()) == model.num_parameters()
    embeddings = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    assert kinds["embeddings"] == sum(module.weight.numel() for module in embeddings)
    plain = ("gpt2", "bert", "distilbert", "roberta", "gpt_neox", "starcoder2")
    assert kinds["ffn"] == 3 * (2 if family in plain else 3) * 48 * 192
    single = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    assert kinds["norms and biases"] == single


def test_parameters_of_a_mixture_are_counted_by_its_parts():
    config = check.small_config(FAMILIES["qwen2_moe"], num_hidden_layers=3, mlp_only_layers=[1])
    with torch.device("meta"):
        model = FAMILIES["qwen2_moe"].model(config)
    kinds, counts = parameters_by_kind(config), {}
    for name, parameter in model.named_parameters():
        inside = re.search(r"\.mlp\.(experts|shared_expert_gate|shared_expert|gate)\.", name)
        kind = inside.group(1) if inside else "ffn" if ".mlp." in name else "others"
        counts[kind] = counts.get(kind, 0) + parameter.numel()
    assert kinds["experts"] == counts["experts"] and kinds["shared experts"] == counts["shared_expert"]
    assert kinds["routers"] == counts["gate"] + counts["shared_expert_gate"] and kinds["ffn"] == counts["ffn"]
    assert sum(kinds.values()) == sum(counts.values())


def test_memory_by_zero_stage():
    """Rajbhandari et al. 2020, figure 1: 2 + 2 + 12 bytes a parameter with Adam in half precision, and what N ranks share."""
    config, ranks = described("gpt2"), 4
    count = sum(parameters_by_kind(config).values())
    kept = memory_by_stage(config, OptimizerConfig(), torch.bfloat16, ranks)
    shared = {0: 16, 1: 4 + 12 / ranks, 2: 2 + 14 / ranks, 3: 16 / ranks}
    for stage in range(4):
        # Pieces are rounded up, of each tensor: at most ranks - 1 elements of the 40 or so.
        assert kept[stage].total - kept[stage].stepping == pytest.approx(count * shared[stage], rel=2e-3)
        assert kept[stage].stepping == pytest.approx(4 * count / (ranks if stage else 1), rel=2e-3)
    in_float32 = memory_by_stage(config, OptimizerConfig(), torch.float32, ranks)[0]
    assert in_float32.total == 16 * count and in_float32.masters == 0


def test_optimizers_keep_what_they_need():
    config = described("gpt2")
    kinds = parameters_by_kind(config)
    moments = {
        name: memory_by_stage(config, OptimizerConfig(name=name), torch.float32, 1)[3].moments // 4
        for name in ("adamw", "lion", "muon")
    }
    count = sum(kinds.values())
    assert moments == {"adamw": 2 * count, "lion": count, "muon": 2 * count - kinds["attention"] - kinds["ffn"]}


@pytest.mark.parametrize("prepared", [False, True])
def test_a_long_warmup_is_told_before_the_run(tmp_path, prepared, messages):
    """Of prepared text by what a run is prepared with, too."""
    data = write_prepared(tmp_path, {"wiki": ([[[[10] * 50]]], [[[[11] * 50]]])})
    of_shards = [f"data={{shards: {data.directory}, sequence_length: 8}}", "evaluation.windows=1"] if prepared else []

    def said(*overrides: str) -> list[str]:
        messages.clear()
        previewed(tmp_path / "run", *of_shards, *overrides, tokens=None if prepared else 100_000)
        return messages

    assert said() == []
    (line,) = said("stages.full.warmup_steps=161")
    assert line.startswith("warning: stages.full.warmup_steps: 161 steps are more than the 160 ")


def test_only_the_layers_that_a_growth_added_learn_where_a_stage_says_so(tmp_path):
    """LLaMA-Pro: of the planned run's stages, those of the grown model."""
    growth = "growth={depth: list, layers: [0, 1, 1, 2, 3, 3], silent: [2, 5]}"
    stages = (
        "stages=[{name: new, trainable: [added], steps: 3}, {name: all, steps: 3, groups: [{parameters: [added], lr: 1.0e-3}]}]"
    )
    first, second = previewed(tmp_path / "run", growth, stages).training_plan.of_phase(1)
    active = first.active_layers(first.begin)
    assert active.layers == {2, 5} and not active.embeddings and not active.head
    assert second.stage.groups[0].parameters == ["layers.2", "layers.5"]


def test_a_dry_run_of_a_mixture_tells_what_a_token_meets_and_what_all_experts_came_to(tmp_path):
    sizes = "hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, vocab_size: 4096"
    source = f"source.model={{family: mixtral, {sizes}, num_experts: 8, num_experts_per_tok: 2}}"
    changes = [source, "target={num_hidden_layers: 3}", "growth={}", "stages=[{name: all, steps: 2}]", "flops.peak_tflops=1"]
    changes += [f"run_dir={tmp_path / 'run'}"]
    ds_config = {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4}
    described, lost = (
        DryRun.of(load_recipe(QUICKSTART, given), ds_config, 1, 0.5, 100_000)
        for given in (changes, [*changes, "router={router_z_loss_coef: 0.1}"])
    )
    page, config = page_of(described), described.planned.config(1)
    assert f"  active      {graph_of(config).active_parameters:,}: a token goes through 2 of 8 experts a layer" in page
    every = training_step(ForwardFlops.of(config, every_expert=True), 128, 2 * 32 * 128, scored=2 * 32 * 128)
    assert f"by the experts that are chosen, {every.model_total:.3e} by all of them" in page
    # In float32, of each of 8 sequences of 128 tokens, 8 logits in each of 3 layers.
    (plan,) = described.planned.training_plan.of_phase(1)
    assert lost.activations(plan) - described.activations(plan) == 4 * 8 * 128 * 8 * 3


RECIPES = QUICKSTART.parent


def dry_run(name: str, *overrides: str) -> DryRun:
    """The dry run of a shipped recipe, its text not looked at."""
    recipe = load_recipe(RECIPES / f"{name}.yaml", list(overrides))
    batch = {"train_batch_size": recipe.train_batch_size, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1}
    return DryRun.of(recipe, batch, 1, 0.5, 1_000_000)


def test_the_numbers_of_a_stage_stand_apart_whatever_their_size():
    """Nine digits of tokens beside three digits of an epoch that is a small part of one."""
    recipe = load_recipe(RECIPES / "paper" / "progressive_124m.yaml", ["flops.peak_tflops=1"])
    batch = {"train_batch_size": 512, "train_micro_batch_size_per_gpu": 32, "gradient_accumulation_steps": 2}
    page = page_of(DryRun.of(recipe, batch, 8, 0.5, 3_300_000_000_000))
    assert re.search(r"^size-1 +2,862 +1,500,512,256 +0\.000455 +32 x 2 x 8 = 512 ", page, re.MULTILINE)


def test_what_a_stage_trains_is_told_with_its_share_and_scratch_beside_it():
    run = dry_run("progressive", "flops.peak_tflops=1")
    each = [came.model_total for came in run.flops()]
    whole = sum(each)
    # The recipe that trains the same model from scratch, on as many tokens.
    (alone,) = dry_run("scratch", "flops.peak_tflops=1").flops()
    assert run.scratch_flops() == alone.model_total
    page = page_of(run)
    share = each[0] / whole
    assert re.search(rf"size-1  2 layers x 256 +2,661,376  everything +{share:.1%}\n", page)
    assert f"this run comes to {whole / alone.model_total:.1%} of scratch's" in page
    assert "largest   stage target: " in page
    # Its first model is not grown: it has its size from the first step on.
    first, second, *_ = page.split("\n\n")
    assert first.startswith("model: gpt2, 2 layers x 256") and "starts      from random weights" in first
    assert "growth" not in first and second.startswith("grow-1: ") and "growth" in second
    assert "of scratch's" not in page_of(dry_run("scratch", "flops.peak_tflops=1"))
    submodels = page_of(dry_run("quickstart", "flops.peak_tflops=1"))
    assert re.search(r"submodels  6 layers x 256 +5,820,416  sub-models' top 2 layers and head  ", submodels)


@pytest.mark.parametrize(
    ("name", "parameters", "tokens"),
    [
        # GPT-2 small's and Llama-2-7B's published counts; between them V d + T d + L (12 d^2 + 13 d) + 2 d.
        ("progressive_124m", 124_439_808, 10e9),
        ("progressive_1.3b", 50257 * 2048 + 2048 * 2048 + 24 * (12 * 2048**2 + 13 * 2048) + 2 * 2048, 26e9),
        ("progressive_7b", 6_738_415_616, 2e12),
    ],
)
def test_recipes_from_small_to_large_at_published_sizes(name, parameters, tokens):
    run = dry_run(f"paper/{name}", "flops.peak_tflops=312")
    stages = run.planned.training_plan.stages
    assert [plan.layers for plan in stages] == [stages[-1].layers * quarters // 4 for quarters in (1, 2, 3, 4)]
    assert sum(parameters_by_kind(run.planned.config(stages[-1].phase)).values()) == parameters
    # A stage ends with the step that reaches its tokens.
    assert 0 <= sum((plan.end - plan.begin) * plan.tokens for plan in stages) - tokens < 4 * stages[0].tokens
    # By far most of a step's FLOPs are the layers', of which .15 of the tokens see a quarter, as many a half, as many .75.
    share = sum(came.model_total for came in run.flops()) / run.scratch_flops()
    assert 0.55 + 0.15 / 4 + 0.15 / 2 + 0.15 * 3 / 4 < share < 0.85
    assert run.rates(stages[-1])[0] == run.recipe.optimizer.lr


BERT_WIDER = [
    "source.model={family: bert, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, vocab_size: 4096}",
    "target={hidden_size: 48}",
]


def anneal_steps(tmp_path, growth: str, *, steps: int, saved: TrainState | None = None) -> tuple[int, list[str]]:
    """The steps over which norms become stock in a run of so many, and what is printed of the growth."""
    changes = [*BERT_WIDER, f"growth={growth}", f"stages=[{{name: full, steps: {steps}}}]"]
    plan = previewed(tmp_path / "run", *changes, saved=saved).growths[0].plan
    assert plan.growth.norm_statistics == "weighted"
    return plan.growth.norm_anneal_steps, plan.choices


def test_norms_that_auto_weighted_are_stock_by_the_end_of_a_short_run(tmp_path):
    assert anneal_steps(tmp_path, "{}", steps=2000)[0] == 1000
    assert anneal_steps(tmp_path, "{norm_anneal_steps: 50}", steps=2000)[0] == 50
    steps, output = anneal_steps(tmp_path, "{}", steps=30)
    assert steps == 30
    assert "norm_anneal_steps: 30, since the model is trained for no more steps, and ends with stock norms" in output
    with pytest.raises(UserError, match="1000 steps are more than the target's 30"):
        anneal_steps(tmp_path, "{width: fpi, norm_statistics: weighted}", steps=30)


def test_a_run_that_is_lengthened_anneals_its_norms_as_it_began(tmp_path):
    """Its norms may be stock by then, and must not be weighted once more."""
    known = [{"growth": {"norm_anneal_steps": 30}}]
    run = {"recipe": {}, "ds_config": {}, "data": {}, "certificates": known}
    certificate = RunDirectory(tmp_path / "run").certificate(1)
    certificate.parent.mkdir(parents=True)
    # Whatever became of the certificate: the checkpoint says it.
    for content in (None, '{"growth": {"norm_anneal_steps": 7}}', '{"growth": []}', "[]", "{"):
        if content is not None:
            certificate.write_text(content)
        saved = TrainState(1, 9, run=run)
        assert anneal_steps(tmp_path, "{}", steps=2000, saved=saved)[0] == 30
        # That of a growth which is still to come, or will be done again, is no certificate of it.
        for before in (None, replace(saved, phase=0), replace(saved, phase=0, run=None)):
            assert anneal_steps(tmp_path, "{}", steps=2000, saved=before)[0] == 1000
    with pytest.raises(UserError, match=r"00\.json: not readable as JSON"):
        anneal_steps(tmp_path, "{}", steps=2000, saved=replace(saved, run=None))


@pytest.mark.parametrize("origin", get_args(get_type_hints(Peak)["origin"]))
def test_the_time_of_a_device_that_is_only_here_names_the_key_for_another(origin):
    device = Device("this CPU", torch.float32, Peak(1e11, origin))
    planned = SimpleNamespace(training_plan=SimpleNamespace(stages=()))
    line = next(notes(DryRun(load_recipe(QUICKSTART, []), {}, planned, 1, 0.4, device, None, 0)))
    assert ("(set flops.peak_tflops for another device)" in line) == (origin != "recipe")
    assert line.startswith("time ") and device.words in line


@pytest.mark.parametrize("name", ["a.json", "mp_rank_00_model_states.pt"])
def test_all_of_a_source_is_looked_at_whatever_the_rank(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    tag = tmp_path / "step-00000001"
    tag.mkdir()
    for file in ("a.json", "mp_rank_00_model_states.pt"):
        (tag / file).write_bytes(b"as written")
    seal(tag)
    (tag / name).write_bytes(b"AS WRITTEN")
    with pytest.raises(UserError, match=f"{name}: its bytes are not those that were written"):
        previewed(tmp_path / "run", "source.model=null", "source.steps=null", f"source.path={tag}")


def test_a_checkpoint_without_a_configuration_takes_that_of_source_config(tmp_path, tiny_model):
    tiny_model("gpt2").float().save_pretrained(tmp_path / "model")
    source = open_huggingface(tmp_path / "model")
    (tmp_path / "checkpoint").mkdir()
    write_zero3(tmp_path / "checkpoint", source.config, source.state, 2)
    for name in ("config.json", "files.json", "progress.json"):
        (tmp_path / "checkpoint" / TAG / name).unlink()

    def planned(*overrides: str):
        path = [f"source.path={tmp_path / 'checkpoint'}", "source.model=null", "source.steps=null"]
        return previewed(tmp_path / "run", *path, "target.hidden_size=64", "data.sequence_length=8", *overrides)

    with pytest.raises(UserError, match=r"add source\.config=DIR"):
        planned("data.tokenizer.vocab_size=50")
    for config in (tmp_path / "model", tmp_path / "model" / "config.json"):
        given = planned("data.tokenizer.vocab_size=50", f"source.config={config}").given
        assert given.beside == tmp_path / "model"
        assert f"read with {tmp_path}/model/config.json" in given.remarks[0]


@pytest.mark.parametrize("trained", [True, False])
def test_a_tokenizer_to_train_beside_a_source_that_has_one_is_warned_of(tmp_path, tiny_model, caplog, trained):
    source = FORMS["gpt2 slow"].write(tmp_path / "model")
    tiny_model("gpt2", vocab=500).float().save_pretrained(source)
    (tmp_path / "text.txt").write_text("some text\n", encoding="utf-8")
    tokenizer = "data.tokenizer.vocab_size=300" if trained else "data.tokenizer=null"
    text = ["data.text.corpus=null", f"data.text.files=[{tmp_path}/text.txt]", f"data.output_dir={tmp_path}/data"]
    given = [f"source.path={source}", "source.model=null", "source.steps=null"]
    previewed(tmp_path / "run", *given, *text, tokenizer, "target.hidden_size=64", "data.sequence_length=8", tokens=None)
    assert ("a tokenizer will be trained on the text, and the source has one" in caplog.text) == trained
