"""Trainings as a whole, on a task that can be learned."""

import argparse
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from pipeline.common.errors import UserError
from pipeline.evaluation.registry import TUNING
from pipeline.evaluation.tuning.model import open_pretrained
from pipeline.evaluation.tuning.options import TuningOptions, add_arguments, options_of
from pipeline.evaluation.tuning.search import tune
from pipeline.evaluation.tuning.task import Grid
from tests.pipeline.evaluation.tuning.conftest import SPECIAL, WORDS, save_bert, squad_file

SHORT = {"learning_rates": (3e-3,), "batch_sizes": (8,), "epochs": (4,), "max_length": 16}


def run(task, model, data, **options):
    scored = tune(task, model, [data], TuningOptions(**(SHORT | options)))
    return scored.metrics, scored.deviations, scored.data, scored.settings


def messages(caplog) -> list[str]:
    """The project's own: transformers warns of heads."""
    return [record.message for record in caplog.records if record.name.startswith("pipeline.")]


def test_a_task_is_learned_and_the_same_seeds_give_the_same(bert, reviews, tmp_path, caplog):
    caplog.set_level("INFO")
    before = sorted(path for path in tmp_path.rglob("*"))
    metrics, deviations, data, settings = run("sst2", bert, reviews, seeds=(1, 2))
    said = messages(caplog)
    untrained, none, *_ = run("sst2", bert, reviews, seeds=(1,), learning_rates=(1e-12,), epochs=(1,))
    # Half of the labels are 1; a model that has learned nothing says nearly always the same.
    assert untrained["accuracy"] <= 0.7
    assert metrics["accuracy"] >= 0.9
    assert none is None
    assert set(deviations) == set(metrics) == {"accuracy"}
    assert data["examples"] == 40 and data["train_examples"] == 96
    assert len(said) == 2 and "seed 2: accuracy" in said[1]
    caplog.clear()
    again = run("sst2", bert, reviews, seeds=(2,))
    assert messages(caplog) == said[1:]
    assert again[2] == data
    assert sorted(tmp_path.rglob("*")) == before
    json.dumps([metrics, deviations, data, settings])


def test_the_grid_is_searched_with_the_first_seed_and_its_best_point_repeated(bert, reviews, monkeypatch):
    """With made-up scores: means, deviations and the choice are those computed by hand."""
    scores = {
        (1e-3, 2, 7): [0.4, 0.5],
        (1e-3, 3, 7): [0.6, 0.8, 0.7],
        (2e-3, 2, 7): [float("nan"), 0.1],
        (2e-3, 3, 7): [0.8, 0.3, 0.2],
        (1e-3, 3, 8): [0.6, 0.5, 0.4],
        (1e-3, 3, 9): [0.1, 0.2, 0.7],
    }
    asked, names = [], []

    def trained(problem, trial, seed, options, name):
        names.append(name)
        asked.append((trial.learning_rate, trial.epochs, seed))
        return [{"accuracy": score} for score in scores[asked[-1]]]

    monkeypatch.setattr("pipeline.evaluation.tuning.search.train", trained)
    metrics, deviations, _, settings = run("sst2", bert, reviews, learning_rates=(1e-3, 2e-3), epochs=(2, 3), seeds=(7, 8, 9))
    assert sorted(asked) == sorted(scores)
    assert names[0] == "sst2: trial 1 of 6, learning rate 0.001, batch 8, 2 epochs, seed 7"
    assert names[-1] == "sst2: trial 6 of 6, learning rate 0.001, batch 8, 3 epochs, seed 9"
    assert metrics["accuracy"] == pytest.approx((0.8 + 0.6 + 0.7) / 3)
    assert deviations["accuracy"] == pytest.approx(np.std([0.8, 0.6, 0.7], ddof=1))
    assert settings["chosen"] == {"learning_rate": 1e-3, "batch_size": 8, "epochs": 3, "best_epochs": [2, 1, 3]}


def test_batches_are_counted_while_a_model_is_tuned(bert, reviews, metered):
    run("sst2", bert, reviews, seeds=(1,), epochs=(2,))
    size, advances = metered["sst2: trial 1 of 1, learning rate 0.003, batch 8, 2 epochs, seed 1"]
    # Twelve of 96 examples, and of 40 to score, which are taken sixteen at a time, three.
    assert size == sum(advances) == 2 * (12 + 3)


def test_the_deviation_of_what_is_no_number_is_no_number(bert, reviews, monkeypatch):
    found = iter([0.5, float("nan")])
    monkeypatch.setattr("pipeline.evaluation.tuning.search.train", lambda *_: [{"accuracy": next(found)}])
    metrics, deviations, *_ = run("sst2", bert, reviews, seeds=(1, 2))
    assert np.isnan(metrics["accuracy"]) and np.isnan(deviations["accuracy"])


def test_scores_of_pairs_are_regressed(bert, tmp_path):
    lines = [
        f"{n}\tgood {word}\t{'good' if n % 2 else 'bad'} {word}\t{5.0 * (n % 2)}\n" for n, word in enumerate(WORDS[2:22] * 3)
    ]
    for stem in ("train", "dev"):
        path = tmp_path / "data" / "STS-B" / f"{stem}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("index\tsentence1\tsentence2\tscore\n" + "".join(lines))
    metrics, *_ = run("stsb", bert, tmp_path / "data", seeds=(1,))
    assert metrics["pearson"] > 0.8 and metrics["spearman"] > 0.7


def test_answers_are_found(bert, tmp_path):
    squad_file(tmp_path / "data" / "train-v1.1.json", 16)
    squad_file(tmp_path / "data" / "dev-v1.1.json", 4)
    metrics, _, data, settings = run("squad", bert, tmp_path / "data", seeds=(1,), max_length=32)
    untrained, *_ = run("squad", bert, tmp_path / "data", seeds=(1,), max_length=32, learning_rates=(1e-12,), epochs=(1,))
    assert metrics["exact_match"] == metrics["f1"] == 1
    assert untrained["f1"] < 0.5
    assert (data["examples"], settings["chosen_by"]) == (16, "f1")


def save_roberta(bert, directory):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = RobertaConfig(
        vocab_size=len(SPECIAL + WORDS), max_position_embeddings=34, pad_token_id=1, type_vocab_size=1, **sizes
    )
    RobertaForMaskedLM(config).save_pretrained(directory)
    shutil.copy(bert / "vocab.txt", directory / "vocab.txt")
    settings = {"tokenizer_class": "BertTokenizer", "pad_token": "[PAD]"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def save_gpt2(bert, directory):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(SPECIAL + WORDS), n_embd=32, n_layer=2, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(directory)
    tokenizer = open_pretrained(bert).tokenizer
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


@pytest.mark.parametrize("save", [save_roberta, save_gpt2])
def test_other_families_learn_too(save, bert, reviews, tmp_path):
    metrics, *_ = run("sst2", save(bert, tmp_path / "other"), reviews, seeds=(1,), dropout=0.0)
    assert metrics["accuracy"] >= 0.8


def test_texts_of_a_tokenizer_without_frame_are_framed_and_padded(bert, tmp_path):
    gpt2 = open_pretrained(save_gpt2(bert, tmp_path / "gpt2")).tokenizer
    assert gpt2.decode(gpt2("good", "bad").input_ids) == "good [SEP] bad"
    assert gpt2.pad_token == "[SEP]"
    with pytest.raises(UserError, match="gpt2 reads from left to right"):
        squad_file(tmp_path / "squad" / "dev-v1.1.json", 4)
        run("squad", tmp_path / "gpt2", tmp_path / "squad")
    bare = open_pretrained(bert).tokenizer
    bare.backend_tokenizer.post_processor = None
    bare.save_pretrained(bert)
    bare = open_pretrained(bert).tokenizer
    framed = bare("good", "bad the", return_token_type_ids=True)
    assert bare.decode(framed.input_ids) == "[CLS] good [SEP] bad the [SEP]"
    assert framed.token_type_ids == [0, 0, 0, 1, 1, 1]
    roberta = open_pretrained(save_roberta(bert, tmp_path / "roberta"))
    # Positions are counted from the model's padding token, whatever the tokenizer calls so.
    assert (roberta.tokenizer.pad_token_id, roberta.positions, roberta.segments) == (1, 32, False)


def test_a_token_that_ends_texts_and_pads_them_learns_as_if_it_padded_none(bert):
    ids, labels = torch.tensor([[2, 5, 9, 3, 3, 3], [2, 6, 7, 8, 9, 3]]), torch.tensor([0, 1])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    gradients = []
    for padding in (0, SPECIAL.index("[SEP]")):
        config = json.loads((bert / "config.json").read_text())
        (bert / "config.json").write_text(json.dumps(config | {"pad_token_id": padding}))
        torch.manual_seed(5)
        model = open_pretrained(bert).load(AutoModelForSequenceClassification, None, num_labels=2)
        assert model.config.pad_token_id == padding
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    assert gradients[1][SPECIAL.index("[SEP]")].any()


def test_what_does_not_fit_is_refused(bert, reviews, tmp_path):
    with pytest.raises(UserError, match="the tokenizer has ids up to 29, and the model's vocab_size is 20"):
        run("sst2", save_bert(tmp_path / "small", vocab_size=20), reviews)
    with pytest.raises(UserError, match="has 64 positions, not 65"):
        run("sst2", bert, reviews, max_length=65)
    with pytest.raises(UserError, match="4 tokens hold no pair of texts; name 5 or more"):
        run("sst2", bert, reviews, max_length=4)
    os.remove(bert / "vocab.txt")
    with pytest.raises(UserError, match="no tokenizer here"):
        run("sst2", bert, reviews)
    with pytest.raises(UserError, match=r"config\.json"):
        run("sst2", tmp_path, reviews)


def test_a_batch_that_the_ranks_cannot_share_is_refused(bert, reviews, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="8 is no multiple of the 3 ranks"):
        run("sst2", bert, reviews)


def test_the_command_line_spells_the_options():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert options_of(parser.parse_args([])) == TuningOptions()
    words = "--learning_rates 1e-4 2e-4 --tuning_batch_sizes 8 --epochs 2 --seeds 0 --max_train 9 --tuning_dropout 0.1".split()
    assert options_of(parser.parse_args(words)) == TuningOptions(
        learning_rates=(1e-4, 2e-4), batch_sizes=(8,), epochs=(2,), seeds=(0,), max_train=9, dropout=0.1
    )
    with pytest.raises(UserError, match="command line: epochs"):
        options_of(parser.parse_args(["--epochs", "0"]))


def test_the_defaults_are_the_papers():
    assert TUNING["mnli"].grid == Grid((5e-6, 1e-5, 2e-5, 3e-5), (32,), (4, 5, 10), 128)
    assert TUNING["squad"].grid == Grid((3e-5,), (16,), (4,), 384)
    assert len(TuningOptions().seeds) == 3


@pytest.mark.parametrize("labels", [2, 3])
def test_a_head_of_another_training_is_refused_and_not_trained_on(bert, reviews, labels):
    config = BertConfig.from_pretrained(bert, num_labels=labels)
    BertForSequenceClassification(config).save_pretrained(bert)
    with pytest.raises(UserError, match=r"comes with its own head \(classifier\..*launch/grow\.py --source"):
        run("sst2", bert, reviews, seeds=(1,))


def test_weights_that_transformers_does_not_find_are_refused_and_not_drawn(bert, reviews):
    """Under DistributedDataParallel's names transformers would train a model drawn at random."""
    path = bert / "model.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"transformers finds no 'bert\..*launch/grow\.py --source .*bert --format hf"):
        run("sst2", bert, reviews, seeds=(1,))
    path.rename(bert / "model-00001-of-00001.safetensors")
    with pytest.raises(UserError, match=r"transformers does not load it .*launch/grow\.py"):
        run("sst2", bert, reviews, seeds=(1,))
