"""A run from small to large: what its section is written out as, and what is refused."""

import itertools
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from pipeline.common.errors import UserError
from pipeline.families import TRAINED, layer_kind, scratch_config, sizes_of
from pipeline.growth.reasons import exactness, predict
from pipeline.recipe import ModelConfig, Recipe, TrainStage, load_recipe, read_recipe, taken_by_auto
from pipeline.recipe.auto import auto_growth, auto_sizes
from pipeline.recipe.progressive import as_written, written_out
from pipeline.recipe.smaller import layer_kinds
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.preparation.preparation import Planned, preview_run

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"
BUILT = [name for name, family in TRAINED.items() if not hasattr(family.config_class(), "kv_lora_rank")]
MODEL = {"family": "gpt2", "hidden_size": 64, "num_hidden_layers": 12, "num_attention_heads": 4, "vocab_size": 97}
GQA = MODEL | {"family": "llama", "num_key_value_heads": 2, "intermediate_size": 176, "tie_word_embeddings": False}
OWN_HEADS = GQA | {"family": "qwen3", "head_dim": 32}
EXPERTS = GQA | {"family": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
HALF = {"hidden_size": 32, "num_hidden_layers": 6}


def content(model: dict, changes: dict | None = None, **section: object) -> dict:
    """A recipe of a run from small to large."""
    recipe = {"run_dir": "r", "attn_implementation": "eager", "data": {"shards": "/nowhere", "sequence_length": 16}}
    return recipe | {"progressive": {"model": model, "steps": 100} | section} | (changes or {})


def planned(recipe: Recipe, tmp_path: Path) -> Planned:
    """The run of a recipe whose text is not looked at."""
    ds_config = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 8}
    return preview_run(recipe, ds_config, RunDirectory(tmp_path / "run"), 1, 10_000)


def models(run: Planned) -> list[tuple[int, int, int, int]]:
    """Layers, width, heads and key-value heads of each model that is trained."""
    sizes = [sizes_of(growth.target) for growth in run.growths]
    return [(s.num_hidden_layers, s.hidden_size, s.num_attention_heads, s.num_key_value_heads) for s in sizes]


def ends_as(run: Planned, model: dict) -> bool:
    """Whether the last model is the one that its family makes of the section's own."""
    grown, own = run.growths[-1].target, scratch_config(ModelConfig(**model), 97, 0, 16)
    kinds = [[layer_kind(config, layer) for layer in range(model["num_hidden_layers"])] for config in (grown, own)]
    return asdict(sizes_of(grown)) == asdict(sizes_of(own)) and kinds[0] == kinds[1]


@pytest.mark.parametrize("family", BUILT)
def test_every_family_ends_as_the_model_that_was_named(family, tmp_path):
    """As `auto` chooses, and from a size that is narrower and shallower; eight layers are no multiple of most patterns."""
    model = MODEL | {"family": family, "num_hidden_layers": 8}
    model |= {"num_key_value_heads": 2} if TRAINED[family].grouped else {}
    chosen = planned(read_recipe(content(model), "r"), tmp_path)
    assert models(chosen)[0][0] < 8 and ends_as(chosen, model)
    mixed = planned(read_recipe(content(model, sizes=[HALF]), "r"), tmp_path)
    assert models(mixed)[0][:3] == (6, 32, 2) and ends_as(mixed, model)


@pytest.mark.parametrize("family", BUILT)
def test_the_table_of_layer_kinds_is_what_the_classes_make_of_their_layers(family):
    config = scratch_config(ModelConfig(**MODEL | {"family": family, "num_hidden_layers": 24}), 97, 0, 16)
    theirs = [json.dumps(layer_kind(config, layer), sort_keys=True) for layer in range(24)]
    ours = layer_kinds({"family": family, "num_hidden_layers": 24})
    assert [theirs.index(kind) for kind in theirs] == [ours.index(kind) for kind in ours]


@pytest.mark.parametrize(
    ("model", "sizes", "trained"),
    [
        (MODEL, "auto", [(3, 64, 4, 4), (6, 64, 4, 4), (9, 64, 4, 4), (12, 64, 4, 4)]),
        (MODEL | {"num_hidden_layers": 2}, "auto", [(1, 64, 4, 4), (2, 64, 4, 4)]),
        (MODEL, [HALF, {"hidden_size": 48}], [(6, 32, 2, 2), (12, 48, 3, 3), (12, 64, 4, 4)]),
        (GQA, [HALF], [(6, 32, 2, 1), (12, 64, 4, 2)]),
        (GQA | {"num_key_value_heads": 1}, [HALF], [(6, 32, 2, 1), (12, 64, 4, 1)]),
        (OWN_HEADS, [HALF], [(6, 32, 2, 1), (12, 64, 4, 2)]),
        (EXPERTS, [HALF | {"num_experts": 4}], [(6, 32, 2, 1), (12, 64, 4, 2)]),
        (EXPERTS | {"mlp_only_layers": [0, 5]}, "auto", [(3, 64, 4, 2), (6, 64, 4, 2), (9, 64, 4, 2), (12, 64, 4, 2)]),
        (
            MODEL | {"family": "gemma3_text", "num_hidden_layers": 26},
            "auto",
            [(7, 64, 4, 4), (13, 64, 4, 4), (20, 64, 4, 4), (26, 64, 4, 4)],
        ),
    ],
)
def test_sizes_are_patches_of_the_model(model, sizes, trained, tmp_path):
    run = planned(read_recipe(content(model, sizes=sizes, shares="auto"), "r"), tmp_path)
    assert models(run) == trained and ends_as(run, model)
    assert all(growth.plan.growth.optimizer_state == "grow" for growth in run.growths[1:])


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ({"steps": 101}, [15, 15, 15, 56]),
        ({"steps": None, "tokens": 10_001}, [1500, 1500, 1500, 5501]),
        ({"steps": None, "epochs": 2}, [0.3, 0.3, 0.3, 1.1]),
        ({"steps": None, "flops": 1e18, "shares": [0.1, 0.2, 0.1]}, [1e17, 2e17, 1e17, 6e17]),
    ],
)
def test_stages_have_their_shares_of_the_whole_length(length, expected):
    recipe = read_recipe(content(MODEL, **length), "r")
    assert [stage.length[1] for stage in recipe.stages if isinstance(stage, TrainStage)] == pytest.approx(expected)


def test_one_schedule_spans_the_run_and_what_is_said_of_it_is_kept():
    def schedule(said: dict | None = None, **section) -> dict:
        given = {} if said is None else {"schedule": said}
        return read_recipe(content(MODEL, given, **section), "r").schedule.model_dump()

    wsd = {"name": "wsd", "span": "run", "decay_ratio": 0.2}
    assert schedule().items() >= (wsd | {"warmup_steps": 1}).items()
    # 32 sequences of 16 tokens a step, of which there are 2000.
    assert schedule(steps=None, tokens=1_024_000)["warmup_steps"] == 20
    assert schedule(steps=None, epochs=3)["warmup_steps"] == 100
    assert schedule({"warmup_steps": 7}).items() >= (wsd | {"warmup_steps": 7}).items()
    assert schedule({"name": "cosine"}).items() >= {"name": "cosine", "span": "run", "decay_ratio": 0.1}.items()
    assert schedule({"name": "constant", "span": "model"})["span"] == "model"


def test_dropout_is_that_of_the_model_in_every_size(tmp_path):
    run = planned(read_recipe(content(MODEL | {"dropout": 0.1}), "r"), tmp_path)
    assert [growth.target.resid_pdrop for growth in run.growths] == [0.1] * 4


def test_one_growth_section_is_of_all_growths():
    stages = yaml.safe_load(read_recipe(content(MODEL, growth={"depth": "midas"}), "r").to_yaml())["stages"]
    assert [stage["growth"]["depth"] for stage in stages if "grow" in stage] == ["midas"] * 3


def test_a_growth_of_ones_own_grows_the_optimizers_state_where_it_does_not_say_otherwise(tmp_path):
    growth = [{"depth": "last_layer"}, {"depth": "random", "optimizer_state": "fresh"}, {}]
    recipe = read_recipe(content(MODEL, growth=growth), "r")
    taken = [(one.plan.growth.depth, one.plan.growth.optimizer_state) for one in planned(recipe, tmp_path).growths[1:]]
    assert taken == [("last_layer", "grow"), ("random", "fresh"), ("interleave", "grow")]


def test_what_auto_took_is_told_with_its_reason_and_the_expansion_is_a_recipe():
    path = RECIPES / "progressive.yaml"
    lines = taken_by_auto(path, ["progressive.model.num_hidden_layers=12"])
    assert [line.split(":")[0] for line in lines] == ["sizes", "shares", "growth.optimizer_state", "growth.depth", "schedule"]
    sizes = ", ".join(f"{{num_hidden_layers: {depth}}}" for depth in (3, 6, 9))
    assert lines[0].startswith(f"sizes: [{sizes}], since each size learns for less compute")
    assert "copies that add nothing at first" in lines[3]
    assert taken_by_auto(RECIPES / "quickstart.yaml", []) == []
    whole = {"sizes": [HALF], "shares": [0.5], "growth": [{}]}
    assert written_out(content(MODEL, {"schedule": {"name": "constant", "warmup_steps": 1}}, **whole), "r")[1] == []
    # State grows where a growth does not say otherwise, with what goes with it.
    copied = {"sizes": [HALF], "shares": [0.5], "growth": [{"new_moments": "copied"}]}
    (grow,) = (stage for stage in written_out(content(MODEL, **copied), "r")[0]["stages"] if "grow" in stage)
    assert grow["growth"] == {"optimizer_state": "grow", "new_moments": "copied"}
    recipe = load_recipe(path, [])
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        (
            {"sizes": [{"num_hidden_layers": 13}]},
            {},
            "progressive.sizes.0: its num_hidden_layers 13 is larger than the next size's",
        ),
        (
            {"sizes": [{"num_hidden_layers": 3}, {"num_hidden_layers": 2}]},
            {},
            "sizes.0: its num_hidden_layers 3 is larger than",
        ),
        ({"sizes": [{"hidden_size": 128}]}, {}, "sizes.0: its hidden_size 128 is larger than the next size's 64"),
        ({"sizes": [{"hidden_size": 32, "num_attention_heads": 1}]}, {}, "sizes.0: its head_dim 32 is larger than the next"),
        ({"sizes": [{"num_hidden_layers": 12}]}, {}, "sizes.0: it equals the next size, so that nothing would grow"),
        ({"sizes": [{"hidden_size": 40}]}, {}, "num_attention_heads: the model's 4 does not scale by hidden_size 64 -> 40"),
        ({"sizes": [{"num_experts": 2}]}, {}, "progressive.model does not set num_experts"),
        ({"sizes": [{"hiden_size": 2}]}, {}, "unknown key 'progressive.sizes.0.hiden_size'; did you mean 'hidden_size'?"),
        ({"sizes": [{}]}, {}, "progressive.sizes.0: a size names what differs"),
        ({"sizes": []}, {}, "progressive.sizes: "),
        ({"sizes": "small"}, {}, "progressive.sizes: Input should be a valid list"),
        ({"model": MODEL | {"num_hidden_layers": 1}}, {}, "fewer layers, and one layer has no smaller depth; name sizes"),
        ({"model": MODEL | {"family": "gemma3_text", "num_hidden_layers": 6}}, {}, "has a layer of each kind"),
        ({"model": MODEL | {"num_attention_heads": 5}}, {}, "progressive.model: hidden_size 64 is no multiple"),
        ({"shares": [0.5]}, {}, "progressive.shares: there are 1 for 3 sizes"),
        ({"shares": [0.5, 0.25, 0.25]}, {}, "progressive.shares: they sum to 1 and leave nothing"),
        ({"shares": [0.5, 0]}, {}, "progressive.shares.1: "),
        ({"shares": [0.6, 0.15, 0.1]}, {}, "schedule.decay_ratio: the rate would fall over the last 0.2 of the run"),
        ({"shares": [0.4, 0.2, 0.2]}, {"schedule": {"decay_ratio": 0.3}}, "is trained for 0.2 of it"),
        ({"steps": 2}, {}, "progressive.steps: 0.15 of 2 is less than one of the steps"),
        ({"steps": None, "flops": 1e18}, {}, "at the first size; name shares of the FLOPs, or give the length in steps"),
        ({"steps": None}, {}, "progressive: the length of the whole run is missing"),
        ({"tokens": 5}, {}, "progressive: a length in `steps` and another in `tokens`"),
        ({"growth": [{}]}, {}, "progressive.growth: its length is 1, and the run grows 3 times"),
        ({"growth": {"depth": "list", "layers": [0]}}, {}, "progressive.growth.layers: a list of layers is of one growth"),
        ({"growth": {"dept": "stack"}}, {}, "unknown key 'progressive.growth.dept'; did you mean 'depth'?"),
        ({"growth": [{}, {"dept": "stack"}]}, {}, "unknown key 'progressive.growth.1.dept'; did you mean 'depth'?"),
        ({}, {"target": {}}, "target: progressive is written out as it; leave out target, or progressive"),
        ({}, {"source": {"path": "m"}}, "source: progressive is written out as it"),
        ({}, {"stages": []}, "stages: progressive is written out as it"),
        ({}, {"growth": {}}, "growth: progressive.growth says how the model grows"),
        ({}, {"data": {"text": {"corpus": "python_docs"}}}, "data.tokenizer: name one to load (path) or to train"),
        ({}, {"progresive": {}}, "unknown key 'progresive'; did you mean 'progressive'?"),
        ({}, {"schedule": 3}, "schedule: "),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(section, changes, words):
    with pytest.raises(UserError) as error:
        read_recipe(content(**{"model": MODEL, "changes": changes} | section), "r.yaml")
    assert str(error.value).startswith("r.yaml: ") and words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "section", "words"),
    [
        # Of four layers, each with a window, none attends to everything.
        (
            MODEL | {"family": "gemma3_text"},
            {"sizes": [{"num_hidden_layers": 4}]},
            "progressive.model: layer 5 of the grown model has",
        ),
        (MODEL | {"family": "gemma2"}, {"growth": [{"depth": "interleave"}], "shares": [0.5]}, "progressive.model: layer "),
        (
            GQA | {"family": "qwen3_moe", "num_experts": 4, "intermediate_size": 100},
            {"sizes": [HALF]},
            "progressive.model.moe_interm",
        ),
        (MODEL, {"growth": [{"depth": "list", "layers": [0]}], "shares": [0.5]}, "progressive.growth.0.layers: 1 layers are"),
        (MODEL, {"growth": {"depth": "list", "layers": [0]}, "shares": [0.5]}, "progressive.growth.layers: 1 layers are"),
        (OWN_HEADS, {"sizes": [{"head_dim": 24}]}, "head_dim: 32 is no multiple of the source's 24"),
    ],
)
def test_growths_that_come_to_another_model_are_refused_with_the_plan(model, section, words, tmp_path):
    if "growth" in section:
        section = section | {"sizes": [{"num_hidden_layers": 2}]}
    written = content(model, **section)
    with pytest.raises(UserError) as error:
        planned(read_recipe(written, "r.yaml"), tmp_path)
    sentence = as_written(written)(str(error.value))
    assert words in sentence and "\n" not in sentence and "stages." not in sentence


def test_messages_of_stages_name_the_sections_keys():
    said = "stages.grow-1.grow.x stages.grow-2.growth.noise stages.grow-3.grow.x stages.size-1.steps final_model"
    expected = "progressive.sizes.x progressive.growth.1.noise progressive.model.x progressive.steps progressive.model"
    paths = " of runs/final_model/metrics.jsonl and /final_model"
    said, expected = said + paths, expected + paths
    assert as_written(content(MODEL, growth=[{}, {}, {}]))(said) == expected


def test_a_decay_that_begins_before_the_last_growth_is_told(tmp_path, messages):
    """Of FLOPs half are far fewer steps of the whole model than of its first size."""

    def said(recipe: dict) -> list[str]:
        messages.clear()
        planned(read_recipe(recipe, "r"), tmp_path)
        return [line for line in messages if "decay_ratio" in line]

    sizes = {"sizes": [{"num_hidden_layers": 1}], "shares": [0.5]}
    (line,) = said(content(MODEL, steps=None, flops=3e9, **sizes))
    assert line.startswith("warning: schedule.decay_ratio: the rate falls from step ")
    assert said(content(MODEL, **sizes)) == []


@pytest.mark.parametrize(
    ("model", "before", "layers", "silent"),
    [
        ({"family": "gpt2", "num_hidden_layers": 9}, 6, None, None),
        # Every second layer has a window: a pair is added behind the first one, and one layer on top.
        ({"family": "gemma2", "num_hidden_layers": 9}, 6, [0, 1, 0, 1, 2, 3, 4, 5, 4], [2, 3, 8]),
        # The first layer alone is one without experts, and then the sixth too.
        ({"family": "qwen3_moe", "num_hidden_layers": 6, "mlp_only_layers": [0]}, 3, [0, 1, 1, 1, 2, 2], [2, 3, 5]),
        ({"family": "qwen3_moe", "num_hidden_layers": 6, "mlp_only_layers": [0, 5]}, 3, [0, 1, 1, 1, 2, 0], [2, 3, 5]),
    ],
)
def test_where_layers_are_of_several_kinds_each_is_made_of_its_own_and_the_source_s_keep_their_order(
    model, before, layers, silent
):
    small = model | {"num_hidden_layers": before}
    small |= {key: [layer for layer in model[key] if layer < before] for key in ("mlp_only_layers",) if key in model}
    expected = {"optimizer_state": "grow"} | ({} if layers is None else {"depth": "list", "layers": layers, "silent": silent})
    assert auto_growth(small, model) == expected


@pytest.mark.parametrize("family", [family for family in BUILT if family not in ("bert", "roberta", "distilbert")])
def test_what_auto_chooses_is_exact_where_norms_stand_before_branches_or_behind_them(family, tmp_path):
    """Six layers are no multiple of most patterns, nor eleven."""
    model = MODEL | {"family": family, "num_hidden_layers": 11}
    model |= {"num_key_value_heads": 2} if TRAINED[family].grouped else {}
    for growth in planned(read_recipe(content(model, sizes=[{"num_hidden_layers": 6}]), "r"), tmp_path).growths[1:]:
        assert exactness(predict(growth.plan)).value == "exact"


@pytest.mark.parametrize("enough", [1, 6])
def test_no_size_that_auto_takes_is_less_than_half_of_the_next(enough):
    for layers in range(2 * enough, 100):
        sizes = [*auto_sizes(layers, enough), layers]
        assert all(small < large <= 2 * small for small, large in itertools.pairwise(sizes)) and sizes[0] >= enough
