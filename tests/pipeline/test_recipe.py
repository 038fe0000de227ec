import re
from pathlib import Path

import pytest
import yaml

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES
from pipeline.recipe import GrowStage, Recipe, TargetConfig, load_recipe
from pipeline.recipe.models import OWN_KEYS

RECIPES = sorted((Path(__file__).parents[2] / "launch" / "recipes").rglob("*.yaml"))
QUICKSTART = next(path for path in RECIPES if path.stem == "quickstart")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_shipped_recipes_are_valid_and_print_as_themselves(path):
    recipe = load_recipe(path, [] if "progressive" in path.read_text() else ["target.dropout=null"])
    for text in (recipe.to_yaml(), recipe.to_short_yaml()):
        assert Recipe.model_validate(yaml.safe_load(text)) == recipe
    assert "null" not in recipe.to_short_yaml().replace("dropout: null", "")


def test_a_shipped_recipe_grows_by_a_ratio_that_is_no_integer():
    ratios = []
    for path in RECIPES:
        recipe = load_recipe(path, [])
        if recipe.source.model is None:
            continue
        ratios.append((recipe.target.hidden_size or 1) / recipe.source.model.hidden_size)
    assert any(ratio > 1 and ratio != int(ratio) for ratio in ratios)


def test_shipped_recipes_name_the_operators_of_a_paper():
    """What a paper's recipe grows by is written there, whatever the defaults are; a progressive run's is `auto`'s choice."""
    for path in RECIPES:
        recipe = load_recipe(path, [])
        if recipe.final_model is not None:
            continue
        stages = [stage for stage in recipe.stages if isinstance(stage, GrowStage)]
        for target, growth in [
            (recipe.target, recipe.growth),
            *((stage.grow, stage.growth or recipe.growth) for stage in stages),
        ]:
            assert target.hidden_size is None or growth.width != "auto" or path == QUICKSTART, path
            assert target.num_hidden_layers is None or growth.depth != "auto", path


def test_own_keys_are_those_of_the_families_configuration_classes():
    """Hugging Face's own tables of other words for one attribute, and those that GPT-2 and DeepSeek have no such entry for."""
    theirs = {"qk_rope_head_dim": "head_dim"}
    for family in FAMILIES.values():
        # What is another word in one class is the common one in others (num_experts).
        words = family.config_class.attribute_map.items()
        words = [(shared, own) for shared, own in words if own not in TargetConfig.model_fields and own != family.layers_beyond]
        theirs |= {own: OWN_KEYS.get(shared, shared) for shared, own in words}
        if family.intermediate_key != "intermediate_size":
            theirs[family.intermediate_key] = "intermediate_size"
    assert theirs == OWN_KEYS


OWN = {"n_embd": 256, "n_layer": 6, "n_head": 4, "n_inner": 999, "n_positions": 512}
SHARED = {OWN_KEYS[key]: value for key, value in OWN.items()}


def test_a_familys_own_keys_are_taken_wherever_sizes_are():
    def parsed(keys: dict) -> Recipe:
        model = {"family": "gpt2", "vocab_size": 50} | keys
        stages = [{"name": "a", "steps": 1}, {"name": "b", "grow": keys}, {"name": "c", "steps": 1}]
        return load_recipe(QUICKSTART, [f"source.model={model}", f"target={keys}", f"stages={stages}"])

    assert parsed(OWN) == parsed(SHARED)
    assert parsed(OWN).target.hidden_size == 256 and parsed(OWN).source.model.max_position_embeddings == 512
    # The file says hidden_size and num_hidden_layers.
    replaced = load_recipe(QUICKSTART, ["target.n_embd=512", "source.model.n_layer=3"])
    assert (replaced.target.hidden_size, replaced.source.model.num_hidden_layers) == (512, 3)
    assert load_recipe(QUICKSTART, ["target={n_embd: 512, hidden_size: 512}"]).target.hidden_size == 512


def test_overrides_reach_sections_lists_and_numbers_in_any_notation():
    recipe = load_recipe(QUICKSTART, ["optimizer.lr=3e-4", "stages.full.steps=7", "stages.0.steps=5", "target.hidden_size=192"])
    assert recipe.optimizer.lr == 3e-4
    assert [stage.steps for stage in recipe.stages] == [5, 7]
    assert recipe.target.hidden_size == 192


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("targets.hidden_size=3", "unknown key 'targets'; did you mean 'target'?"),
        ("target.hiden_size=3", "unknown key 'target.hiden_size'; did you mean 'hidden_size'?"),
        ("stages.0.submodel_layer=3", "unknown key 'stages.submodels.submodel_layer'; did you mean 'submodel_layers'?"),
        ("stages.third.steps=3", "none is 'third'"),
        ("seed.x=3", "'seed' is a single value"),
        ("growth.width=wider", "growth.width: Input should be 'auto', 'aki', "),
        ("growth.noise=0.1", "`noise` is an option of width: nai"),
        ("source.model.num_attention_heads=5", "hidden_size 128 is no multiple of num_attention_heads 5"),
        ("source.path=somewhere", "name either `path`"),
        ("source={path: somewhere, steps: 3}", "`steps` (or epochs, tokens, flops) goes with `model`"),
        ("data.shards=somewhere", "name either `shards`"),
        ("data={shards: 's3://bucket/web'}", "python -m data_prep fetch URL DIR"),
        ("data.output_dir='s3://bucket/web'", "`output_dir` has to be a local folder"),
        ("data.weights={wiki: 1}", "`weights` goes with `shards`"),
        ("data.text.min_lengths=3", "unknown key 'data.text.min_lengths'; did you mean 'min_length'?"),
        ("stages.0.name=source", "is used twice"),
        (
            "stages.0.epochs=2",
            "stages.submodels: a length in `steps` and another in `epochs`: leave one out, or set it to null",
        ),
        ("stages=[{name: a}]", "stages.a: a length is missing: steps, epochs, tokens or flops"),
        ("stages=[{name: a, steps: 1}, {name: b, grow: {hidden_siz: 3}}]", "'stages.b.grow.hidden_siz'; did you mean"),
        ("stages=[{name: a, steps: 1}, {name: b, grow: {hidden_size: 3}}]", "each growth needs training before and after it"),
        ("stages.0.trainable=[head]", "leave one out"),
        ("stages.1.trainable=[layer.3]", "stages.full.trainable.0: parameters are named embeddings, head, layers, added"),
        ("stages.1.groups=[{parameters: [head]}]", "stages.full.groups.0: a group gives its parameters an `lr`"),
        ("stages.1.schedule={span: run}", "a stage's own schedule spans that stage"),
        ("stages.1.weights={wiki: 1}", "`weights` goes with data.shards"),
        ("schedule.decay_ratio=0.2", "`decay_ratio` is an option of name: wsd, not of cosine"),
        ("schedule={name: inverse_sqrt}", "inverse_sqrt needs `warmup_steps`"),
        ("optimizer.momentum=0.9", "`momentum` is an option of name: muon"),
        ("growth.new_moments=copied", "`new_moments` goes with optimizer_state: grow"),
        ("optimizer.base_width=64", "`width_rates` and `base_width`, the hidden_size for which `lr` was found, go together"),
        ("stages=[{name: a, steps: x}, {name: a, steps: 1}]", "stages.0.steps: "),
        ("stages=[{name: a.b, steps: 1}]", "stages.0.name: "),
        ("stages=[{steps: 1}]", "stages.0.name: "),
        ("optimizer.betas=[0.9]", "optimizer.betas.1: "),
        ("stages=[{name: a, tokens: 10B}]", "stages.a.tokens: a number is expected, for instance 32 or 1.0e+10 (got '10B')"),
        ("optimizer.lr=fast", "optimizer.lr: a number is expected"),
        ("steps", "not an override"),
        (
            ["target={n_embd: 512, hidden_size: 256}"],
            "target: `n_embd` is another name of `hidden_size`, and they are 512 and 256",
        ),
        (["target={n_embd: 512, dim: 256}"], "target: `n_embd` is another name of `dim`, and they are 512 and 256; leave"),
        (["target={num_hidden_layers: 7, n_layer: 8}"], "target: `n_layer` is another name of `num_hidden_layers`"),
        (["target.n_embd=512", "target.hidden_size=256"], "target.n_embd=512 target.hidden_size=256: both set the same size"),
        (["source.model.hidden_size=64", "source.model.n_embd=32"], "both set the same size"),
        (["target={n_emdb: 512}"], "unknown key 'target.n_emdb'; did you mean 'n_embd'?"),
        (["target={hidden_act: gelu}"], "unknown key 'target.hidden_act'; known here: "),
        (["target={n_embd: 0}"], "target.hidden_size: Input should be greater than 0"),
        (["target={ffn_multiple_of: 64, n_inner: 512}"], "`ffn_multiple_of` rounds an intermediate_size that is not named"),
        (["data.attention=document", "attn_implementation=flash_attention_2"], "data.attention: document needs a mask"),
    ],
)
def test_a_wrong_key_or_value_is_refused_in_words(override, words):
    with pytest.raises(UserError) as error:
        load_recipe(QUICKSTART, [override] if isinstance(override, str) else override)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_number_that_a_sentence_shows_is_one_in_a_file_too(tmp_path):
    with pytest.raises(UserError) as error:
        load_recipe(QUICKSTART, ["source.steps=many"])
    numbers = re.findall(r"instance (\S+) or (\S+)", str(error.value))[0]
    for number in numbers:
        path = tmp_path / "r.yaml"
        path.write_text(QUICKSTART.read_text().replace("steps: 160", f"tokens: {number}"))
        assert load_recipe(path, []).stages[1].tokens == float(number)


@pytest.mark.parametrize(
    ("overrides", "instead"),
    [
        (["data.text.files=[a.txt]"], "data.text={files: [a.txt]}"),
        (["data.text.min_length=3", "data.text.files=[a.txt]", "seed=5"], "data.text={files: [a.txt]}"),
        (["source.path=somewhere"], "source={path: somewhere}"),
        # Nothing that is wrong for another reason.
        (["optimizer.momentum=0.9", "optimizer.lr=3e-4"], None),
        (["source.model.num_attention_heads=5"], None),
    ],
)
def test_a_key_that_clashes_with_the_files_is_told_what_would_do(overrides, instead):
    with pytest.raises(UserError) as error:
        load_recipe(QUICKSTART, overrides)
    if instead is None:
        assert "replaces the whole section" not in str(error.value)
    else:
        assert str(error.value).endswith(f"; {instead}, given first, replaces the whole section")
        load_recipe(QUICKSTART, [instead, *(override for override in overrides if override[:9] != instead[:9])])


def test_a_sentence_names_the_file_or_the_command_line_whichever_is_wrong(tmp_path):
    with pytest.raises(UserError, match=r"^command line: unknown key 'optimzer'"):
        load_recipe(QUICKSTART, ["optimzer.lr=1"])
    path = tmp_path / "r.yaml"
    path.write_text(QUICKSTART.read_text() + "\noptimzer: {}\n")
    for overrides in ([], ["seed=3"]):
        with pytest.raises(UserError, match=f"^{path}: unknown key 'optimzer'"):
            load_recipe(path, overrides)


def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path):
    for content, words in [("- a list", "a mapping of keys"), ("a: [", "not readable as YAML")]:
        path = tmp_path / "r.yaml"
        path.write_text(content)
        with pytest.raises(UserError, match=words):
            load_recipe(path, [])
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        load_recipe(tmp_path / "none.yaml", [])


def test_adams_state_of_a_source_that_was_never_trained_is_refused():
    model = "source={model: {family: gpt2, hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 4}}"
    with pytest.raises(UserError, match="grow needs a source that was trained"):
        load_recipe(QUICKSTART, [model, "growth.optimizer_state=grow"])


def test_an_element_cannot_keep_the_sources_rate_where_rates_follow_the_width():
    growth, widths = "growth={optimizer_state: grow, element_rates: true}", "optimizer={width_rates: mup, base_width: 64}"
    load_recipe(QUICKSTART, [growth])
    with pytest.raises(UserError, match=r"growth\.element_rates: .* optimizer\.width_rates"):
        load_recipe(QUICKSTART, [growth, widths])


LEAST = ("hidden_size", "num_hidden_layers", "num_attention_heads")
TRAIN = {"name": "a", "steps": 1}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"source": {"model": {"family": "gpt2"} | dict.fromkeys(LEAST, 1)}}, "source is trained"),
        ({"stages": [TRAIN, {"name": "b", "grow": {"tokenizer": "t"}}, TRAIN | {"name": "c"}]}, "has one tokenizer"),
        ({"data": {"text": {"files": ["a.txt"]}, "tokenizer": {"vocab_size": 300}}}, "not trained here"),
    ],
)
def test_a_targets_tokenizer_that_cannot_be_that_of_all_text_is_refused(changed, words):
    recipe = {"run_dir": "r", "source": {"path": "s"}, "target": {"tokenizer": "t"}, "data": {"shards": "d"}, "stages": [TRAIN]}
    assert Recipe.model_validate(recipe).target.tokenizer == "t"
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate(recipe | changed)
