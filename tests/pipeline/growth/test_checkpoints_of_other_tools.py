"""What a checkpoint of another tool is a model of: recognized as in a Hugging Face directory with the same tensors."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.common.errors import UserError
from pipeline.families import read_config
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.sources import open_source
from pipeline.growth.trainer_checkpoints import trainer_remarks
from pipeline.growth.zero_files import TAG, write_zero3
from tests.pipeline.growth.models import FAMILY_NAMES, family_named, small_model


def own_head(tensors, family):
    for own in family.head_alias:
        tensors[own] = torch.randn(tensors[own].shape)


def without_head(tensors, family):
    for own in family.head_alias:
        del tensors[own]


def as_they_are(tensors, family):
    """A head that equals the embedding."""


def in_wrappers(tensors, family):
    for name in list(tensors):
        tensors[f"_orig_mod.module.{name}"] = tensors.pop(name)


def around_a_classifier(tensors, family):
    without_head(tensors, family)
    for name in list(tensors):
        if family.of_head(name):
            del tensors[name]
    tensors["score.weight" if family.objective == "clm" else "classifier.weight"] = torch.randn(2, 32)


CASES = {
    "a head of its own, called tied": (own_head, True, None),
    "a head of its own": (own_head, False, None),
    "an equal head, called untied": (as_they_are, False, None),
    "an equal head": (as_they_are, True, None),
    "no head, called untied": (without_head, False, None),
    "names in wrappers": (in_wrappers, True, None),
    "a classifier": (around_a_classifier, True, "ForSequenceClassification"),
}


def both(tmp_path, name, change, said, architecture):
    """The same tensors as a Hugging Face directory, and as the Trainer's checkpoint of two ranks with moments of each."""
    model, family = small_model(name).float(), family_named(name)
    tensors = {key: tensor.clone() for key, tensor in model.state_dict().items() if not family.buffers.search(key)}
    torch.manual_seed(3)
    change(tensors, family)
    named = family.model_class.__name__ if architecture is None else f"Any{architecture}"
    config = model.config.to_dict() | {"tie_word_embeddings": said, "architectures": [named], "dtype": "float32"}
    directory, trained = tmp_path / "model", tmp_path / "checkpoint-1"
    for folder in (directory, trained):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, directory / "model.safetensors", {"format": "pt"})
    stored = {key: MappedTensor(tensor) for key, tensor in load_file(directory / "model.safetensors").items()}
    moments = {
        key: {"exp_avg": MappedTensor(2 * rows.rows(0, rows.shape[0])), "exp_avg_sq": rows, "step": 7.0}
        for key, rows in stored.items()
    }
    write_zero3(trained, read_config(trained / "config.json"), stored, 2, optimizer=moments)
    for file in ("config.json", "files.json", "progress.json"):
        (trained / TAG / file).unlink()
    return directory, trained


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_it_is_the_model_that_a_directory_of_its_tensors_is(tmp_path, name, case):
    if case == "a classifier" and name == "bert with pairs":
        pytest.skip("a classifier names no class with a head on sentence pairs")
    directory, trained = both(tmp_path, name, *CASES[case])
    expected, found = open_source(directory), open_source(trained)
    assert found.config.to_dict() == expected.config.to_dict()
    assert found.state.keys() == expected.state.keys()
    *remarks, last = found.remarks
    assert remarks == list(expected.remarks) and "without digests" in last
    for key, rows in expected.state.items():
        values = rows.rows(0, rows.shape[0])
        assert torch.equal(found.state[key].rows(0, rows.shape[0]), values), key
        if case == "a classifier" and found.family.of_head(key):
            # At its initialization, which no optimizer has stepped.
            assert key not in found.optimizer
            continue
        assert torch.equal(found.optimizer[key]["exp_avg"].rows(0, rows.shape[0]), 2 * values), key
        assert found.optimizer[key]["step"] == 7.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("transformer.h.1.mlp.c_fc.weight"), r"c_fc\.weight' is missing from the weights"),
        (lambda tensors: tensors.update({"other.weight": torch.ones(2)}), r"'other\.weight' is unknown to family gpt2"),
        (
            lambda tensors: tensors.update({"base_model.model.transformer.h.0.lora_A.weight": torch.ones(2)}),
            "those of a PEFT adapter beside its model",
        ),
        (
            lambda tensors: tensors.update({"module.transformer.wte.weight": tensors["transformer.wte.weight"]}),
            "is there twice",
        ),
    ],
)
def test_what_is_no_whole_model_is_refused_by_its_tensor(tmp_path, change, message):
    _, trained = both(tmp_path, "gpt2", lambda tensors, family: change(tensors), True, None)
    with pytest.raises(UserError, match=message):
        open_source(trained)


def test_a_checkpoint_of_ours_is_what_its_own_configuration_says(tmp_path):
    """Also where an untied head comes to equal the embedding, as before the first step of one that was untied."""
    model = small_model("gpt2", tied=False).float()
    model.config.architectures = ["GPT2LMHeadModel"]
    tensors = {key: MappedTensor(tensor) for key, tensor in model.state_dict().items()}
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    write_zero3(tmp_path, model.config, tensors, 2)
    source = open_source(tmp_path)
    assert not source.config.tie_word_embeddings and "lm_head.weight" in source.state and source.remarks == ()
    with pytest.raises(UserError, match=r"source\.config: .* was written here, with its own config\.json; leave it out"):
        open_source(tmp_path, config=tmp_path / TAG)


def test_endless_nesting_in_what_a_checkpoint_says_of_its_run_is_refused(tmp_path):
    _, trained = both(tmp_path, "gpt2", as_they_are, True, None)
    (trained / TAG / "progress.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"progress\.json: not a checkpoint's own file; copy the checkpoint again"):
        open_source(trained)


@pytest.mark.parametrize(
    ("rate", "step"),
    [
        *((rate, "5") for rate in ("Infinity", "NaN", "1e400", "1" + 400 * "0", '"x"', "true", "null")),
        *(("0.1", step) for step in ("null", '"x"', "true", "1.5")),
    ],
)
def test_a_learning_rate_that_is_no_number_or_of_no_step_is_not_shown(tmp_path, rate, step):
    history = f'[{{"step": {step}, "learning_rate": {rate}}}]'
    (tmp_path / "trainer_state.json").write_text(f'{{"global_step": 7, "max_steps": 9, "log_history": {history}}}')
    assert trainer_remarks(tmp_path) == ("a checkpoint of transformers' Trainer at step 7 of 9",)
