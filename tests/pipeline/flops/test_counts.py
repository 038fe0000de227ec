"""The formulae against torch's own counter, on the same forward and backward under eager attention."""

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, bmm_flop, mm_flop
from transformers import BertForPreTraining

from pipeline.data.objectives import IGNORED
from pipeline.families import FAMILIES, TRAINED, ActiveLayers, family_of, sizes_of
from pipeline.families.base import has_key
from pipeline.flops.counts import PARTS, ForwardFlops, StepFlops, training_step
from pipeline.training.layers import prepare_model
from pipeline.training.loop.running import running, scoring
from tests.families import let_learn
from tests.pipeline.growth import check

SEQUENCES, LENGTH, LAYERS = 2, 15, 4
TOKENS = SEQUENCES * LENGTH
SCORED = 11
"""Masked positions. No other size of these models is 11, so that products over them are known for the head's."""

HEADS = {"bert": "cls", "distilbert": "vocab_transform", "modernbert": "model.final_norm", "roberta": "lm_head"}
"""Where the prediction heads of masked models begin."""

UNITS = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")

ALL = frozenset(range(LAYERS))
NONE = frozenset()
SECTIONS = {
    "everything": None,
    "top half of the whole": ActiveLayers.top(LAYERS, 2),
    "lowest sub-model": ActiveLayers.top(2, 2),
    "one layer of three": ActiveLayers.top(3, 1),
    "layers and head, embeddings frozen": ActiveLayers(LAYERS, ALL, embeddings=False, head=True),
    "middle layers, frozen top": ActiveLayers(LAYERS, frozenset({1, 2}), embeddings=False, head=True),
    "layers apart, frozen head": ActiveLayers(LAYERS, frozenset({1, 3}), embeddings=False, head=False),
    "layer 0 alone": ActiveLayers(LAYERS, frozenset({0}), embeddings=False, head=False),
    "head alone": ActiveLayers(3, NONE, embeddings=False, head=True),
    "embeddings alone": ActiveLayers(3, NONE, embeddings=True, head=False),
    "embeddings and head": ActiveLayers(LAYERS, NONE, embeddings=True, head=True),
    "embeddings and a layer above": ActiveLayers(LAYERS, frozenset({2}), embeddings=True, head=False),
    "rows of new tokens alone": ActiveLayers(LAYERS, NONE, embeddings=False, head=False, new_tokens=True),
    "rows of new tokens and a layer": ActiveLayers(LAYERS, frozenset({1}), embeddings=False, head=False, new_tokens=True),
    "embeddings and the lowest layer": ActiveLayers(LAYERS, frozenset({0}), embeddings=True, head=True),
}


def scored_of(family):
    """How many positions the head scores."""
    return SCORED if family.objective == "mlm" else TOKENS


def formula_of(config, active=None, **options):
    """Return what the formula says of a step."""
    return training_step(ForwardFlops.of(config), LENGTH, TOKENS, scored=scored_of(family_of(config)), active=active, **options)


MIXTURES = {name: family for name, family in FAMILIES.items() if has_key(family.config_class, "num_experts")}
COUNTED = TRAINED | MIXTURES

# The others are of the same tables as these, and run here where all is tested; the tests below run them in any case.
EACH_FAMILY = [
    pytest.param(family, id=name, marks=() if name in ("bert", "gpt2", "llama", "qwen2_moe") else pytest.mark.full)
    for name, family in COUNTED.items()
]


@contextmanager
def plainly(model, family, active):
    """Run what the active says; nothing keeps gradients from what is frozen but a detached embedding."""
    hooks = []
    if not (active.embeddings or active.new_tokens):
        hooks.append(model.get_input_embeddings().register_forward_hook(lambda *called: called[-1].detach()))
    if family.objective == "mlm":
        places = torch.arange(SCORED) * 2
        head = model.get_submodule(HEADS[family.name])
        hooks.append(head.register_forward_pre_hook(lambda _, inputs: (inputs[0].flatten(0, 1)[places], *inputs[1:])))
    layers = model.get_submodule(family.layers)
    model.set_submodule(family.layers, nn.ModuleList(list(layers)[: active.depth]))
    yield
    model.set_submodule(family.layers, layers)
    for hook in hooks:
        hook.remove()


@contextmanager
def as_in_training(model, family, active):
    """Run what the active says as the pipeline does."""
    labels = torch.full((SEQUENCES, LENGTH), IGNORED)
    labels.view(-1)[: scored_of(family)] = 1
    with running(model, family, active), scoring(model, family, labels):
        yield


def counted(model, family, active=None, run=plainly):
    """Return torch's count of one step by part, each product known by its shape."""
    active = active or ActiveLayers.whole(LAYERS)
    let_learn(model, family, active)
    sizes, parts = sizes_of(model.config), Counter(dict.fromkeys(PARTS, 0))

    def product(flops, *shapes):
        dimensions = {size for shape in shapes for size in shape}
        # An expert may be given as many tokens of a causal model as any.
        if sizes.vocab_size in dimensions or (family.objective == "mlm" and SCORED in dimensions):
            parts["head"] += flops
        else:
            # Gate and unit may be made by one matrix, as wide as no other product of these models. A router is as wide as
            # there are experts, and the gate of a shared one is a single channel.
            units = {getattr(sizes, key) for key in UNITS} - {None}
            inner = units | {2 * size for size in units} | {sizes.num_experts, 1}
            parts["ffn" if inner & dimensions else "attention_projections"] += flops
        return flops

    def scores(a, b, out_shape=None):
        # Some releases of transformers write rotary angles, each a position times a frequency, as a product over one element.
        flops = 0 if a[-1] == 1 else bmm_flop(a, b)
        parts["attention_scores"] += flops
        return flops

    aten = torch.ops.aten
    mapping = {
        aten.mm: lambda a, b, out_shape=None: product(mm_flop(a, b), a, b),
        aten.addmm: lambda bias, a, b, out_shape=None, **_: product(addmm_flop(bias, a, b), a, b),
        aten.bmm: scores,
    }
    input_ids = torch.arange(TOKENS).reshape(SEQUENCES, LENGTH)
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        with run(model, family, active):
            logits = model(input_ids=input_ids, use_cache=False).logits
        if logits.requires_grad:
            logits.sum().backward()
    assert counter.get_total_flops() == parts.total()
    return dict(parts)


def small(tiny_model, family, *, tied=True):
    model = tiny_model(family, tied=tied, layers=LAYERS).float().train()
    model.set_attn_implementation("eager")
    # A loop over the experts: products by groups are not counted by torch.
    model.set_experts_implementation("eager")
    return model


@pytest.mark.parametrize("active", SECTIONS.values(), ids=SECTIONS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_the_formula_counts_what_torch_counts(tiny_model, family, tied, active):
    model = small(tiny_model, family.name, tied=tied)
    formula = formula_of(model.config, active)
    # Equal to the last operation: both count matrix products, and only those.
    assert formula.model == counted(model, family, active)
    assert formula.executed == formula.model


@pytest.mark.parametrize("active", SECTIONS.values(), ids=SECTIONS)
@pytest.mark.parametrize("family", [FAMILIES["bert"], FAMILIES["gpt2"], FAMILIES["llama"]], ids=["bert", "gpt2", "llama"])
def test_training_runs_no_more_than_the_formula_counts(tiny_model, family, active):
    model = small(tiny_model, family.name)
    assert formula_of(model.config, active).executed == counted(model, family, active, as_in_training)


@pytest.mark.parametrize("active", ["everything", "layers apart, frozen head", "embeddings and a layer above", "head alone"])
@pytest.mark.parametrize("family", COUNTED.values(), ids=COUNTED)
def test_recomputed_layers_are_executed_again(tiny_model, family, active):
    model = small(tiny_model, family.name, tied=False)
    prepare_model(model, family, activation_checkpointing=True, compile=False)
    active = SECTIONS[active]
    plain, recomputed = (formula_of(model.config, active, recomputed=recomputed) for recomputed in (False, True))
    assert recomputed.executed == counted(model, family, active)
    assert recomputed.model == plain.model


@pytest.mark.parametrize("family", COUNTED.values(), ids=COUNTED)
def test_causal_models_may_be_counted_by_half_their_scores(tiny_model, family):
    config = small(tiny_model, family.name).config
    full, half = (formula_of(config, recomputed=True, causal_scores=scores) for scores in ("full", "half"))
    share = 2 if family.objective == "clm" else 1
    for whole, halved in [(full.model, half.model), (full.executed, half.executed)]:
        assert halved == whole | {"attention_scores": whole["attention_scores"] // share}


@pytest.mark.parametrize("active", [None, ActiveLayers.top(3, 1), SECTIONS["head alone"], SECTIONS["layer 0 alone"]])
def test_sentence_pairs_cost_a_pooler_and_two_classes(tiny_model, active):
    family, config = FAMILIES["bert"], small(tiny_model, "bert").config
    model = BertForPreTraining(config).train()
    active = active or ActiveLayers.whole(LAYERS)
    for name, parameter in model.named_parameters():
        if name.startswith("bert.encoder.layer."):
            parameter.requires_grad_(int(name.split(".")[3]) in active.layers)
        else:
            tied = name == family.words
            own = active.embeddings if "embeddings" in name and not tied else active.head
            parameter.requires_grad_(own)
    if not active.embeddings:
        model.get_input_embeddings().register_forward_hook(lambda *called: called[-1].detach())
    model.bert.encoder.layer = model.bert.encoder.layer[: active.depth]
    with FlopCounterMode(display=False) as counter:
        output = model(input_ids=torch.arange(TOKENS).reshape(SEQUENCES, LENGTH))
        (output.prediction_logits.sum() + output.seq_relationship_logits.sum()).backward()
    formula = training_step(ForwardFlops.of(config), LENGTH, TOKENS, scored=TOKENS, active=active, pairs=True)
    assert formula.model_total == counter.get_total_flops()


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("options", [{"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}], ids=str)
def test_layers_without_experts_are_counted_as_they_are(options, recomputed):
    family = FAMILIES["qwen3_moe"]
    config = check.small_config(family, num_hidden_layers=LAYERS, intermediate_size=200, **options)
    config._experts_implementation = "eager"
    config._attn_implementation = "eager"
    model = family.model(config).train()
    prepare_model(model, family, activation_checkpointing=recomputed)
    sections = [ActiveLayers.whole(LAYERS), SECTIONS["layer 0 alone"], SECTIONS["layers apart, frozen head"]]
    for active in sections:
        assert formula_of(config, active, recomputed=recomputed).executed == counted(model, family, active)


PARTS_OF_MIXTURES = [
    {"routers": True},
    {"experts": frozenset({1})},
    {"experts": frozenset({0, 3}), "routers": True},
    {"shared_experts": True},
    {"routers": True, "experts": frozenset(range(4)), "head": True, "layers": frozenset({2})},
    {"routers": True, "embeddings": True},
]


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("learns", PARTS_OF_MIXTURES, ids=str)
def test_parts_of_mixtures_that_learn_alone_are_counted_by_themselves(tiny_model, learns, recomputed):
    family = FAMILIES["qwen2_moe"]
    model = small(tiny_model, family.name, tied=False)
    prepare_model(model, family, activation_checkpointing=recomputed)
    chosen = {"layers": NONE, "embeddings": False, "head": False} | learns
    active = ActiveLayers(LAYERS, mixtures=ALL, **chosen)
    formula = formula_of(model.config, active, recomputed=recomputed)
    # In the lowest layer the gate of a shared expert is not run again where nothing that it multiplies learns.
    rel = 2e-4 if recomputed else 0
    assert formula.executed == pytest.approx(counted(model, family, active), rel=rel, abs=0)


@pytest.mark.parametrize("family", MIXTURES.values(), ids=MIXTURES)
def test_every_expert_counts_what_a_mixture_of_all_its_experts_does(tiny_model, family):
    config = small(tiny_model, family.name).config
    some, all_of_them = ForwardFlops.of(config), ForwardFlops.of(config, every_expert=True)
    config.num_experts_per_tok = sizes_of(config).num_experts
    assert ForwardFlops.of(config) == all_of_them
    assert some.layers[0].ffn < all_of_them.layers[0].ffn


def test_steps_add_up_part_by_part():
    step = StepFlops(dict.fromkeys(PARTS, 1), dict.fromkeys(PARTS, 2)) + StepFlops()
    total = step + step
    assert total == StepFlops(dict.fromkeys(PARTS, 2), dict.fromkeys(PARTS, 4))
    assert (total.model_total, total.executed_total) == (10, 20)
    assert step.model_total == 5
