"""Targets that attend otherwise than their source on purpose: how far nothing changes, held against the stock classes."""

import json
import logging
import re

import pytest
import torch

from pipeline.common.config import validate
from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, context, target_config
from pipeline.growth import listing
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.recipe import TargetConfig
from tests.pipeline.families.grown import certified, logits, offline, saved
from tests.pipeline.growth import check
from tests.pipeline.growth.check import plan_of

MIXED = {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}
YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 4.0, "attention_factor": 1.0}

CHANGES = [
    ("llama", {}, {"rope_theta": 1e6}, 1),
    ("llama", {}, {"rope_parameters": {"rope_theta": 1e6}, "hidden_size": 96, "head_dim": 32}, 1),
    ("qwen2", {}, {"rope_scaling": {"type": "linear", "factor": 4.0}, "max_position_embeddings": 160}, 1),
    ("llama", {}, {"rope_parameters": YARN, "max_position_embeddings": 160}, 1),
    ("gpt_neox", {}, {"rope_parameters": LLAMA3, "max_position_embeddings": 320}, 1),
    ("llama", {}, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 40),
    ("llama", {}, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 60}, 60),
    ("phi3", {"original_max_position_embeddings": 40}, {"rope_parameters": LONG, "max_position_embeddings": 160}, 40),
    ("gemma3_text", MIXED, {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}, 1),
    ("olmo3", MIXED, {"rope_parameters": {"full_attention": YARN}}, 1),
    ("modernbert", MIXED, {"rope_parameters": {"sliding_attention": {"rope_theta": 5e4}}}, 1),
    ("mistral", {"sliding_window": 5}, {"sliding_window": 7}, 5),
    ("mistral", {"sliding_window": 9}, {"sliding_window": 7}, 7),
    ("starcoder2", {"sliding_window": 5}, {"sliding_window": "full"}, 5),
    ("mistral", {"sliding_window": None}, {"sliding_window": 7}, 7),
    ("gemma3_text", MIXED | {"sliding_window": 5}, {"sliding_window": 9}, 5),
    ("modernbert", MIXED | {"local_attention": 6}, {"local_attention": 12}, 4),
]


@pytest.mark.parametrize(("name", "options", "target", "length"), CHANGES)
def test_sequences_change_from_the_length_that_is_told(name, options, target, length):
    family = FAMILIES[name]
    config = check.small_config(family, **options)
    model = check.random_model(family, config, 1)
    plan = plan_of(config, target)
    assert [change.length for change in plan.context] == [length]
    assert exactness(predict(plan)) is Exactness.BY_DESIGN
    first = family.objective == "clm" and (length == 1 or "rope_parameters" not in target)
    words = f"position {length} is the first" if first else f"texts of more than {length} tokens"
    assert words in predict(plan)[0].cause
    grown = check.grown_model(plan, model)
    for tokens, changes in ((length, False), (length + 1, True)):
        ids = torch.randint(4, 61, (1, tokens), generator=torch.Generator().manual_seed(2))
        moved = (logits(grown, ids) - logits(model, ids)).abs().amax(dim=(0, 2))
        # In float64 what is exact moves by 1e-13.
        assert bool((moved > 1e-9).any()) is changes, moved
        if changes and family.objective == "clm":
            assert int((moved > 1e-9).nonzero()[0]) == (length if first else 1)


@pytest.mark.parametrize(
    ("name", "options", "target", "says"),
    [
        ("llama", {}, {"rope_parameters": LLAMA3 | {"rope_type": "yarm"}}, "rope_parameters.rope_type: one of default, linear"),
        ("llama", {}, {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        (
            "llama",
            {},
            {"rope_parameters": {"factr": 8.0}},
            "rope_parameters.factr: rope_type default has no such key; keys are",
        ),
        ("llama", {}, {"rope_parameters": {"factor": 8.0}}, "it belongs to rope_type linear or dynamic or yarn"),
        (
            "llama",
            {},
            {"rope_parameters": YARN | {"beta_fats": 8.0}},
            "rope_parameters.beta_fats: rope_type yarn has no such key",
        ),
        ("olmo3", MIXED, {"rope_parameters": {"full_attention": {"factor": 4.0}}}, "rope_parameters.full_attention.factor"),
        ("llama", {}, {"rope_parameters": {"rope_type": "yarn", "factor": "much"}}, "rope_parameters.factor: a number"),
        ("llama", {}, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("gpt_neox", {}, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "growth keeps the source's"),
        ("llama", {}, {"rope_parameters": YARN, "head_dim": 32}, "target.head_dim: rotary positions of type 'yarn' change"),
        ("llama", {}, {"rope_theta": 1e6, "rope_parameters": 3}, "a mapping of keys"),
        ("llama", {}, {"rope_scaling": YARN, "rope_parameters": YARN}, "leave one out"),
        ("gpt2", {}, {"rope_theta": 1e6}, "gpt2 has no rotary positions"),
        ("gemma3_text", MIXED, {"rope_theta": 1e6}, "put the keys under sliding_attention or full_attention"),
        ("llama", {}, {"sliding_window": 7}, "llama has no layers with a window"),
        ("qwen2", {}, {"sliding_window": 7}, "names no layer of the source that has a window"),
        ("gemma3_text", MIXED, {"sliding_window": "full"}, "layer_types names the layers with a window"),
        ("mistral", {}, {"sliding_window": 0}, "sliding_window"),
        ("phi3", {}, {"rope_parameters": LLAMA3}, "put what phi3 computes there"),
    ],
)
def test_what_a_family_cannot_attend_by_is_refused_by_key(name, options, target, says):
    config = check.small_config(FAMILIES[name], **options)
    with pytest.raises(UserError, match=re.escape(says)):
        target_config(config, validate(TargetConfig, target, "target"))


@pytest.mark.parametrize("said", [{"rope_theta": "1e6"}, {"rope_parameters": {"rope_theta": "1000000"}}])
def test_a_number_is_one_however_yaml_and_command_lines_read_it(said):
    config = check.small_config(FAMILIES["llama"])
    assert target_config(config, validate(TargetConfig, said, "target")).rope_parameters["rope_theta"] == 1e6


@pytest.mark.parametrize(("kind", "keys"), sorted(context._OF_TYPE.items()))
def test_transformers_warns_of_no_key_that_is_taken_and_of_others_that_are_not(kind, keys, caplog, monkeypatch):
    """The class that computes the frequencies is the judge of which keys it looks at."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING, "transformers")  # a command run before in this process has silenced it
    pairs = {key: [1.0] * 8 for key in ("short_factor", "long_factor")}
    every = set().union(*context._OF_TYPE.values())
    more = {"original_max_position_embeddings": 40} if kind in context._ASKS_PRETRAINED else {}
    for key in every | {"none"}:
        config = check.small_config(FAMILIES["llama"])
        values = {each: pairs.get(each, 2.0) for each in keys | {key}}
        config.rope_parameters = {"rope_type": kind, "rope_theta": 1e4, "partial_rotary_factor": 1.0} | more | values
        caplog.clear()
        config.validate_rope()
        assert ("Unrecognized keys" in caplog.text) is (key not in keys), (key, caplog.text)


LINEAR = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("name", "options", "target"),
    [
        ("llama", LINEAR, {"rope_theta": 1e4, "max_position_embeddings": 400}),
        ("modernbert", MIXED | {"local_attention": 6}, {"local_attention": 7}),
    ],
)
def test_what_is_said_and_changes_nothing_is_exact(name, options, target):
    """The source's own theta and a longer table of a type that does not look at it; a window that the class halves."""
    assert predict(plan_of(check.small_config(FAMILIES[name], **options), target)) == []


def test_a_certificate_says_by_how_much_logits_move_inside_and_beyond_the_sources_positions(tmp_path):
    family = FAMILIES["llama"]
    saved(tmp_path / "source", "llama", tie_word_embeddings=True)
    target = {"rope_parameters": YARN, "max_position_embeddings": 160, "tie_word_embeddings": False}
    certificate = certified(tmp_path / "source", target)
    found = certificate["measured"]["by_position"]
    assert [one["positions"] for one in found] == [40, 160]
    assert all(one["max_logit_difference"] > 1e-3 for one in found)
    lines = listing.table(certificate, tmp_path / "out")
    assert "tie_word_embeddings True -> False" in lines and "change by position" in lines
    assert certificate["context"]["rope_parameters"]["factor"] == 4.0
    read = family.model_class.from_pretrained(tmp_path / "out").config
    assert read.rope_parameters["original_max_position_embeddings"] == 40 and read.max_position_embeddings == 160


def test_a_source_that_was_lengthened_before_says_what_it_was_pretrained_at():
    rope = LLAMA3 | {"rope_theta": 1e4, "original_max_position_embeddings": 40}
    config = check.small_config(FAMILIES["llama"], rope_parameters=rope, max_position_embeddings=320)
    target = target_config(config, TargetConfig(rope_parameters=YARN, max_position_embeddings=640))
    assert target.rope_parameters["original_max_position_embeddings"] == 40


@pytest.mark.parametrize(
    ("name", "options", "said", "says"),
    [
        ("llama", {}, {"factor": -2, "rope_type": "linear"}, "rope_parameters.factor: a number from 1 is expected"),
        ("llama", {}, YARN | {"beta_fast": 1, "beta_slow": 32}, "rope_parameters.beta_fast: a number from beta_slow 32"),
        ("llama", {}, LLAMA3 | {"low_freq_factor": 4.0}, "high_freq_factor: a number above low_freq_factor 4.0"),
        ("llama", {}, YARN | {"original_max_position_embeddings": 0}, "a whole number of positions from 1 is expected"),
        ("llama", {}, {"rope_theta": -1.0}, "rope_theta: a number above 0"),
        ("llama", {}, YARN | {"attention_factor": 0.0}, "attention_factor: a number above 0"),
        ("olmo3", MIXED, {"rope_theta": 3.0}, "has rope_parameters"),
        ("gemma3_text", MIXED, YARN, "has rope_parameters"),
        ("llama", {}, {"factr": 3.0}, "rope_type default has no such key"),
    ],
)
def test_a_target_file_is_held_to_the_rules_of_the_command_line(name, options, said, says, tmp_path):
    config = check.small_config(FAMILIES[name], **options)
    saved(tmp_path / "source", name, **options)
    content = json.loads((tmp_path / "source" / "config.json").read_text())
    content["rope_parameters"] |= said
    (tmp_path / "target.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        offline(tmp_path / "source", tmp_path / "target.json")
    # Some are refused by the class that reads the file.
    assert "target.json" in str(error.value) and (
        says in str(error.value) or "cannot be built" in str(error.value) or "no configuration that" in str(error.value)
    )
    if not options:
        with pytest.raises(UserError) as error:
            target_config(config, TargetConfig(rope_parameters=said))
        assert str(error.value).startswith("target.") and says in str(error.value)


def test_what_a_target_file_does_not_say_is_the_sources(tmp_path):
    """The class's own base and window are of other models."""
    options = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "sliding_window": 7}
    saved(tmp_path / "source", "mistral", **options)
    content = json.loads((tmp_path / "source" / "config.json").read_text()) | {"max_position_embeddings": 80}
    for key in ("rope_parameters", "sliding_window"):
        del content[key]
    (tmp_path / "target.json").write_text(json.dumps(content))
    growth = offline(tmp_path / "source", tmp_path / "target.json")
    assert predict(growth.plan) == []
    assert growth.target.rope_parameters["rope_theta"] == 5e5 and growth.target.sliding_window == 7


@pytest.mark.parametrize(
    "target",
    [{"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}}, {"sliding_window": "half"}, {"sliding_window": True}],
)
def test_a_key_with_two_values_or_none_is_refused(target):
    with pytest.raises(UserError, match=r"leave one out|a number of tokens is expected, or `full`"):
        validate(TargetConfig, target, "target")


def test_a_window_that_takes_too_long_is_told_without_a_number(tmp_path):
    saved(tmp_path / "source", "mistral", sliding_window=4096)
    certificate = certified(tmp_path / "source", {"sliding_window": 8192})
    assert certificate["measured"]["by_position"] == [{"positions": 4128, "max_logit_difference": None}]
    assert "not measured up to position 4127" in listing.table(certificate, tmp_path / "out")


def test_a_certificate_keeps_what_a_class_has_and_no_more():
    """A key of null would stand in the place of what rope_parameters say."""
    for name, keys in (("gpt2", set()), ("llama", {"rope_parameters"}), ("mistral", {"rope_parameters", "sliding_window"})):
        assert context.context_of(check.small_config(FAMILIES[name])).keys() == keys
