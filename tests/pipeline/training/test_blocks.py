import contextlib

import pytest

from data_prep.errors import UserError
from pipeline.families import FAMILIES, TRAINED, Section, graph_of
from pipeline.recipe import TrainStage
from pipeline.training.blocks import blocks_of_parameters, check_learns, cut, naming_added, section_of


def stage(**keys) -> TrainStage:
    return TrainStage(name="s", steps=1, **keys)


def group(*parameters: str) -> dict:
    return {"parameters": [*parameters], "lr": 1.0}


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        ([], ["layers.0-11"]),
        ([stage(submodel_layers=4), stage(submodel_layers=6)], ["layers.0-3", "layers.4-5", "layers.6-7", "layers.8-11"]),
        ([stage(trainable=["layers.6-11", "head"])], ["layers.0-5", "layers.6-11"]),
        ([stage(trainable=["layers.3"])], ["layers.0-2", "layers.3-3", "layers.4-11"]),
        (
            [stage(trainable=["head"], groups=[group("head")]), stage(submodel_layers=12, groups=[group("layers")])],
            ["layers.0-11"],
        ),
        ([stage(groups=[group("embeddings", "layers.0-1")])], ["layers.0-1", "layers.2-11"]),
    ],
)
def test_blocks_are_the_fewest_that_every_stage_is_made_of(stages, names):
    assert [block.name for block in cut(12, stages)] == ["embeddings", *names, "head"]


def test_a_section_is_what_its_selectors_name():
    assert section_of(["layers.2-3", "head"], 4, "") == Section(4, frozenset({2, 3}), embeddings=False, head=True)
    assert section_of(["layers", "embeddings"], 2, "") == Section(2, frozenset({0, 1}), embeddings=True, head=False)
    assert section_of(["layers.2-3"], 4, "").lowest == 2
    assert section_of(["head"], 4, "").lowest == 4
    assert section_of(["head", "embeddings"], 4, "").lowest is None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"submodel_layers": 5}, "stages.s.submodel_layers: 5 does not divide the model's 12 layers"),
        ({"trainable": ["layers.9-12"]}, "stages.s.trainable: 'layers.9-12' where the model has layers 0 to 11"),
        ({"trainable": ["layers.5-4"]}, "stages.s.trainable: 'layers.5-4'"),
        (
            {"groups": [group("layers.0-3"), group("layers.3-5", "head")]},
            "stages.s.groups: two of them claim the same parameters",
        ),
        (
            {"trainable": ["layers.6-11"], "groups": [group("layers.5-6"), group("layers.0-4", "head", "embeddings")]},
            "stages.s.groups.1: the stage trains none of these parameters",
        ),
        ({"trainable": ["head"], "groups": [group("embeddings")]}, "stages.s.groups.0: the stage trains none"),
        ({"submodel_layers": 4, "groups": [group("embeddings")]}, "stages.s.groups.0: the stage trains none"),
        (
            {"submodel_layers": 4, "groups": [group("head", "embeddings")]},
            "groups.0: embeddings stand still beside submodel_la",
        ),
    ],
)
def test_a_stage_that_does_not_fit_its_model_is_refused(keys, words):
    with pytest.raises(UserError) as error:
        cut(12, [stage(**keys)])
    assert words in str(error.value)


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("gpt2", True)])
def test_a_tied_embedding_alone_has_nothing_to_learn(tiny_model, family, tied):
    graph = graph_of(tiny_model(family, tied=tied).config)
    refused = pytest.raises(UserError, match=r"stages\.s\.trainable: .* tied to the head")
    with refused if (family, tied) == ("llama", True) else contextlib.nullcontext():
        check_learns(graph, stage(trainable=["embeddings"]))


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        ({"groups": [group("layers.0"), group("embeddings")]}, 1),
        ({"trainable": ["embeddings", "layers.2"], "groups": [group("embeddings", "layers.0")]}, 0),
        ({"groups": [group("embeddings", "layers.0")]}, None),
        ({"groups": [group("embeddings", "head")]}, None),
    ],
)
@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("gpt2", True)])
def test_a_group_of_a_tied_embedding_alone_is_refused(tiny_model, family, tied, keys, refused):
    graph, groups = graph_of(tiny_model(family, tied=tied).config), stage(**keys)
    cut(3, [groups])
    words = rf"stages\.s\.groups\.{refused}: .* tied to the head .* leave the group out"
    alone = (family, tied) == ("llama", True) and refused is not None
    with pytest.raises(UserError, match=words) if alone else contextlib.nullcontext():
        check_learns(graph, groups)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", TRAINED)
def test_every_parameter_is_in_one_block(tiny_model, family, tied):
    model = tiny_model(family, tied=tied, layers=4)
    block_of = blocks_of_parameters(graph_of(model.config), cut(4, [stage(trainable=["layers.1-2"])]))
    assert block_of.keys() == {name for name, _ in model.named_parameters()}
    section = Section(4, frozenset({1, 2}), embeddings=False, head=False)
    learning = {id(p) for name, p in model.named_parameters() if block_of[name].learns(section)}
    layers = model.get_submodule(FAMILIES[family].layers)
    assert learning == {id(p) for layer in list(layers)[1:3] for p in layer.parameters()}


def test_added_layers_are_selected_by_the_growth_that_added_them():
    chosen = stage(trainable=["added", "head"], groups=[group("added"), group("head")])
    named = naming_added(chosen, [2, 5])
    assert named.trainable == ["layers.2", "layers.5", "head"]
    assert [each.parameters for each in named.groups] == [["layers.2", "layers.5"], ["head"]]
    assert naming_added(stage(trainable=["layers"]), []) == stage(trainable=["layers"])
    with pytest.raises(UserError, match=r"stages\.s\.groups\.0: `added` where the model's growth adds no layers"):
        naming_added(chosen, [])


def test_rows_of_new_tokens_are_a_block_where_a_stage_names_them_and_gradients_reach_the_embeddings():
    alone = stage(trainable=["new_tokens"])
    assert [block.name for block in cut(4, [alone])] == ["embeddings", "layers.0-3", "head", "new_tokens"]
    section = section_of(["new_tokens", "layers.2"], 4, "")
    assert section == Section(4, frozenset({2}), embeddings=False, head=False, new_tokens=True)
    assert section.lowest is None


@pytest.mark.parametrize(
    ("tied", "keys", "words"),
    [
        (True, {"trainable": ["new_tokens"]}, None),
        (True, {"trainable": ["new_tokens", "layers.0"], "groups": [group("new_tokens")]}, None),
        (True, {"groups": [group("embeddings"), group("new_tokens")]}, None),
        (False, {"trainable": ["new_tokens", "embeddings"]}, None),
        (False, {"trainable": ["head"], "groups": [group("new_tokens")]}, None),
        (True, {"trainable": ["new_tokens", "head"]}, "trainable: `new_tokens` are rows of what learns as a whole with head"),
        (False, {"trainable": ["new_tokens", "head", "embeddings"]}, "as a whole with embeddings and head; leave it out"),
        (True, {"trainable": ["layers.1"], "groups": [group("new_tokens")]}, "groups.0: the stage trains none"),
        (True, {"trainable": ["new_tokens"], "groups": [group("embeddings")]}, "groups.0: the stage trains none"),
        (True, {"groups": [group("new_tokens"), group("new_tokens", "head")]}, "two of them claim the same parameters"),
        (
            True,
            {"submodel_layers": 1, "groups": [group("new_tokens")]},
            "groups.0: embeddings stand still beside submodel_layers",
        ),
    ],
)
def test_rows_of_new_tokens_go_with_whatever_is_not_all_of_them(tiny_model, tied, keys, words):
    graph, chosen = graph_of(tiny_model("gpt2", tied=tied).config), stage(**keys)

    def judge(*, new_tokens: bool) -> None:
        cut(3, [chosen])
        check_learns(graph, chosen, new_tokens=new_tokens)

    if words is not None:
        with pytest.raises(UserError, match=words):
            judge(new_tokens=True)
        return
    judge(new_tokens=True)
    with pytest.raises(UserError, match=r"stages\.s: `new_tokens` where the model's growth adds no rows"):
        judge(new_tokens=False)
