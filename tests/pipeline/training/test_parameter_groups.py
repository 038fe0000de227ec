import contextlib

import pytest

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, NO_MIXTURES, ActiveLayers, Mixtures, graph_of
from pipeline.recipe import TrainStage
from pipeline.training.parameter_groups import (
    active_layers_of,
    check_learns,
    cut,
    groups_of_parameters,
    naming_added,
    setting_of,
)
from tests.families import WITH_A_MIXTURE


def stage(**keys) -> TrainStage:
    return TrainStage(name="s", steps=1, **keys)


def groups(*selectors: str) -> dict:
    """Groups of a stage, each by its selectors."""
    return {"groups": [{"parameters": each.split(), "lr": 1.0} for each in selectors]}


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        ([], ["layers.0-11"]),
        ([stage(submodel_layers=4), stage(submodel_layers=6)], ["layers.0-3", "layers.4-5", "layers.6-7", "layers.8-11"]),
        ([stage(trainable=["layers.6-11", "head"])], ["layers.0-5", "layers.6-11"]),
        ([stage(trainable=["layers.3"])], ["layers.0-2", "layers.3-3", "layers.4-11"]),
        ([stage(trainable=["head"], **groups("head")), stage(submodel_layers=12, **groups("layers"))], ["layers.0-11"]),
        ([stage(**groups("embeddings layers.0-1"))], ["layers.0-1", "layers.2-11"]),
    ],
)
def test_groups_are_the_fewest_that_every_stage_is_made_of(stages, names):
    assert [group.name for group in cut(12, stages)] == ["embeddings", *names, "head"]


def test_active_layers_is_what_its_selectors_name():
    assert active_layers_of(["layers.2-3", "head"], 4, "") == ActiveLayers(4, frozenset({2, 3}), embeddings=False, head=True)
    assert active_layers_of(["layers", "embeddings"], 2, "") == ActiveLayers(2, frozenset({0, 1}), embeddings=True, head=False)
    assert active_layers_of(["layers.2-3"], 4, "").lowest == 2
    assert active_layers_of(["head"], 4, "").lowest == 4
    assert active_layers_of(["head", "embeddings"], 4, "").lowest is None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"submodel_layers": 5}, "stages.s.submodel_layers: 5 does not divide the model's 12 layers"),
        ({"trainable": ["layers.9-12"]}, "stages.s.trainable: 'layers.9-12' where the model has layers 0 to 11"),
        ({"trainable": ["layers.5-4"]}, "stages.s.trainable: 'layers.5-4'"),
        (groups("layers.0-3", "layers.3-5 head"), "stages.s.groups: two of them claim the same parameters"),
        (
            {"trainable": ["layers.6-11"], **groups("layers.5-6", "layers.0-4 head embeddings")},
            "stages.s.groups.1: the stage trains none of these parameters",
        ),
        ({"trainable": ["head"], **groups("embeddings")}, "stages.s.groups.0: the stage trains none"),
        ({"submodel_layers": 4, **groups("embeddings")}, "stages.s.groups.0: the stage trains none"),
        ({"submodel_layers": 4, **groups("head embeddings")}, "groups.0: embeddings are frozen with submodel_la"),
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
        (groups("layers.0", "embeddings"), 1),
        ({"trainable": ["embeddings", "layers.2"], **groups("embeddings layers.0")}, 0),
        (groups("embeddings layers.0"), None),
        (groups("embeddings head"), None),
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
@pytest.mark.parametrize("family", WITH_A_MIXTURE)
def test_every_parameter_is_in_one_block(tiny_model, family, tied):
    model = tiny_model(family, tied=tied, layers=4)
    block_of = groups_of_parameters(graph_of(model.config), cut(4, [stage(trainable=["layers.1-2"])]))
    assert block_of.keys() == {name for name, _ in model.named_parameters()}
    active = ActiveLayers(4, frozenset({1, 2}), embeddings=False, head=False)
    learning = {id(p) for name, p in model.named_parameters() if block_of[name][0].learns(active)}
    layers = model.get_submodule(FAMILIES[family].layers)
    assert learning == {id(p) for layer in list(layers)[1:3] for p in layer.parameters()}


def test_added_layers_are_selected_by_the_growth_that_added_them():
    chosen = stage(trainable=["added", "head"], **groups("added", "head"))
    named = naming_added(chosen, [2, 5])
    assert named.trainable == ["layers.2", "layers.5", "head"]
    assert [each.parameters for each in named.groups] == [["layers.2", "layers.5"], ["head"]]
    assert naming_added(stage(trainable=["layers"]), []) == stage(trainable=["layers"])
    with pytest.raises(UserError, match=r"stages\.s\.groups\.0: `added` where the model's growth adds no layers"):
        naming_added(chosen, [])


def test_rows_of_new_tokens_are_a_block_where_a_stage_names_them_and_gradients_reach_the_embeddings():
    alone = stage(trainable=["new_tokens"])
    rows = ["embeddings.new_tokens", "head.new_tokens"]
    assert [group.name for group in cut(4, [alone])] == ["embeddings", "layers.0-3", "head", *rows]
    active = active_layers_of(["new_tokens", "layers.2"], 4, "")
    assert active == ActiveLayers(4, frozenset({2}), embeddings=False, head=False, new_tokens=True)
    assert active.lowest is None


@pytest.mark.parametrize(
    ("tied", "keys", "words"),
    [
        (True, {"trainable": ["new_tokens"]}, None),
        (True, {"trainable": ["new_tokens", "layers.0"], **groups("new_tokens")}, None),
        (True, groups("embeddings", "new_tokens"), None),
        (False, {"trainable": ["new_tokens", "embeddings"]}, None),
        (False, {"trainable": ["head"], **groups("new_tokens")}, None),
        (True, {"trainable": ["new_tokens", "head"]}, "trainable: `new_tokens` are rows of head"),
        (
            False,
            {"trainable": ["new_tokens", "head", "embeddings"]},
            "are rows of embeddings and head, which the stage trains as a whole",
        ),
        (True, {"trainable": ["layers.1"], **groups("new_tokens")}, "groups.0: the stage trains none"),
        (True, {"trainable": ["new_tokens"], **groups("embeddings")}, "groups.0: the stage trains none"),
        (True, groups("new_tokens", "new_tokens head"), "two of them claim the same parameters"),
        (True, {"submodel_layers": 1, **groups("new_tokens")}, "groups.0: embeddings are frozen with submodel_layers"),
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


MIXTURES = Mixtures(frozenset({1, 2}), experts=4, shared=True)


@pytest.mark.parametrize(
    ("selectors", "words", "experts"),
    [
        (["router"], [".mlp.gate.", ".shared_expert_gate."], set()),
        (["experts"], [".mlp.experts.", ".shared_expert."], {0, 1, 2, 3}),
        (["experts.1", "experts.3"], [".mlp.experts."], {1, 3}),
        (["experts.0-1", "router"], [".mlp.experts.", ".mlp.gate.", ".shared_expert_gate."], {0, 1}),
    ],
)
def test_a_selector_of_mixtures_names_their_parameters_in_all_layers_and_a_layer_all_of_its_own(
    tiny_model, selectors, words, experts
):
    graph = graph_of(tiny_model("qwen2_moe").config)
    active = active_layers_of([*selectors, "layers.1"], 3, "", graph.mixtures)
    groups = groups_of_parameters(graph, cut(3, [stage(trainable=[*selectors, "layers.1"])], graph.mixtures))
    learning = {name: [group for group in some if group.learns(active)] for name, some in groups.items()}
    assert {name for name, some in learning.items() if some} == {
        name for name in groups if name.startswith("model.layers.1.") or any(word in name for word in words)
    }
    some = learning["model.layers.0.mlp.experts.down_proj"]
    assert {number for group in some for number in group.experts} == experts
    assert active.lowest == 0


def test_gradients_end_at_the_first_layer_that_has_a_mixture():
    assert active_layers_of(["experts.2"], 3, "", MIXTURES).lowest == 1


def test_experts_are_cut_into_the_fewest_ranges_and_layers_without_a_mixture_are_not():
    stages = [stage(trainable=["experts.1-2", "layers.0"]), stage(**groups("router"))]
    names = [group.name for group in cut(3, stages, MIXTURES)]
    of_mixtures = ["router", "experts.0-0", "experts.1-2", "experts.3-3", "shared_expert"]
    assert names == ["embeddings", "layers.0-0", "layers.1-2", *(f"layers.1-2.{part}" for part in of_mixtures), "head"]


def test_a_joined_parameter_has_the_groups_of_its_rows_and_every_other_one_has_one(tiny_model):
    graph = graph_of(tiny_model("qwen2_moe").config)
    of_parameters = groups_of_parameters(graph, cut(3, [stage(trainable=["experts.1-2", "router"])], graph.mixtures))
    names = {name.removeprefix("model.layers.0."): [group.name for group in of] for name, of in of_parameters.items()}
    ranges = [f"layers.0-2.experts.{some}" for some in ("0-0", "1-2", "3-3")]
    assert names["mlp.experts.gate_up_proj"] == names["mlp.experts.down_proj"] == ranges
    assert names["mlp.gate.weight"] == names["mlp.shared_expert_gate.weight"] == ["layers.0-2.router"]
    assert names["mlp.shared_expert.up_proj.weight"] == ["layers.0-2.shared_expert"]
    assert names["self_attn.q_proj.weight"] == ["layers.0-2"]
    assert of_parameters.keys() == graph.parameter_shapes().keys()


@pytest.mark.parametrize(
    ("keys", "mixtures", "words"),
    [
        ({"trainable": ["experts.4"]}, MIXTURES, "trainable: 'experts.4' where the model has experts 0 to 3"),
        (groups("experts.2-4"), MIXTURES, "groups.0: 'experts.2-4' where the model has experts 0 to 3"),
        ({"trainable": ["head", "router"]}, NO_MIXTURES, "trainable: 'router' where the model is no mixture of experts"),
        (groups("experts.1"), NO_MIXTURES, "groups.0: 'experts.1' where the model is no mixture of experts"),
        (groups("experts.1", "experts.0-1"), MIXTURES, "groups: two of them claim the same parameters"),
        (groups("layers.2", "router"), MIXTURES, "groups: two of them claim the same parameters"),
        (groups("layers.0", "experts.0", "experts.1-3 router"), MIXTURES, None),
        ({"trainable": ["router", "layers.0"], **groups("experts")}, MIXTURES, "groups.0: the stage trains none"),
    ],
)
def test_selectors_of_mixtures_fit_the_model_and_meet_where_they_name_the_same(keys, mixtures, words):
    with contextlib.nullcontext() if words is None else pytest.raises(UserError, match=words):
        cut(3, [stage(**keys)], mixtures)


def test_a_group_says_what_holds_of_its_groups_and_that_of_new_tokens_comes_before_their_matrix():
    chosen = stage(
        groups=[
            {"parameters": ["new_tokens"], "lr": 3.0},
            {"parameters": ["embeddings", "experts.1-3"], "lr": 2.0, "weight_decay": 0.5},
        ]
    )
    groups = {group.name: group for group in cut(3, [chosen], MIXTURES)}
    rates = {name: setting_of(chosen, "lr", group, 3, MIXTURES) for name, group in groups.items()}
    assert rates["embeddings"] == rates["layers.0-2.experts.1-3"] == 2.0
    assert rates["embeddings.new_tokens"] == rates["head.new_tokens"] == 3.0
    assert rates["head"] is rates["layers.0-2"] is rates["layers.0-2.experts.0-0"] is None
    assert setting_of(chosen, "weight_decay", groups["embeddings.new_tokens"], 3, MIXTURES) == 0.5
