"""Several corpora in one run, and documents that are kept apart."""

import itertools
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from data_prep.manifest import HELDOUT, TRAIN, PreparedData
from data_prep.prepare import prepare
from data_prep.settings import CorpusConfig, DataPrepConfig, TokenizerConfig
from data_prep.shards import Shard
from tests.conftest import make_documents

SHORT = {"model": {"family": "gpt2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}, "steps": 2}
STAGES = [{"name": "submodels", "submodel_layers": 2, "steps": 3}, {"name": "full", "steps": 3}]


@pytest.fixture(scope="module")
def blended(tmp_path_factory) -> PreparedData:
    """Two corpora, of 300 documents and of 60."""
    directory = tmp_path_factory.mktemp("blended")
    for name, count, seed in (("wiki", 300, 1), ("books", 60, 2)):
        lines = (json.dumps({"text": text}) + "\n" for text in make_documents(count, seed))
        (directory / f"{name}.jsonl").write_text("".join(lines))
    corpora = [CorpusConfig(name=n, files=[str(directory / f"{n}.jsonl")], heldout_fraction=0.1) for n in ("wiki", "books")]
    config = DataPrepConfig(output_dir=str(directory), corpora=corpora, tokenizer=TokenizerConfig(vocab_size=406))
    return prepare(config)


def test_a_blend_gives_the_same_losses_on_two_ranks_and_is_part_of_the_run(launch, recipe, blended, tmp_path):
    data = {"shards": str(blended.directory), "sequence_length": 32, "weights": {"wiki": 1, "books": 3}}
    path = recipe(data=data, source=SHORT, stages=STAGES)
    # One micro-batch of 8 against two of 4: the same bits would be no surprise where the parts are alike.
    alone = launch(path, f"run_dir={tmp_path / 'one'}", "train_micro_batch_size_per_gpu=8").finish()
    together = launch(path, f"run_dir={tmp_path / 'two'}", ranks=2).finish()
    # fp32 sums in another order.
    assert together.losses == pytest.approx(alone.losses, rel=1e-5)
    assert together.summary["losses"] == pytest.approx(alone.summary["losses"], rel=1e-5)
    assert len(together.summary["peak_memory"]) == 2
    assert json.loads((alone.run_dir / "data.json").read_text())["weights"] == {
        "32 books=3 wiki=1": {"wiki": 0.25, "books": 0.75}
    }
    wiki, books = (frequency(blended, corpus) for corpus in blended.corpora)
    share = 0.25 * wiki + 0.75 * books
    share = share[share > 0]
    assert alone.summary["losses"]["unigram"] == pytest.approx(-(share * np.log(share)).sum())

    other = launch(path, f"run_dir={tmp_path / 'other'}", "data.weights={wiki: 3, books: 1}").finish()
    assert other.losses != pytest.approx(alone.losses, rel=1e-5)
    launch(path, f"run_dir={tmp_path / 'one'}", "data.weights={wiki: 3, books: 1}").refused("differs in data.weights")
    launch(path, f"run_dir={tmp_path / 'three'}", "data.weights={wiki: 3, book: 1}").refused(
        "no corpus 'book' in the prepared data; did you mean 'books'?"
    )
    assert not (tmp_path / "three").exists()


def frequency(data, corpus) -> np.ndarray:
    """How often each id stands in the training tokens, as a share of them."""
    tokens = np.concatenate([Shard(prefix).tokens for prefix in data.shards(corpus, TRAIN)])
    return np.bincount(tokens, minlength=data.manifest.vocab_size) / len(tokens)


@pytest.mark.parametrize("ranks", [pytest.param(0, marks=pytest.mark.full), 2])
def test_a_folder_some_of_whose_corpora_have_nothing_to_train_on_is_trained_on(launch, recipe, tmp_path, ranks):
    texts = {"wiki": make_documents(300, 1), "copies": make_documents(300, 1)[20:40], "note": ["One short line."]}
    for name, documents in texts.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    corpora = [CorpusConfig(name="wiki", files=[str(tmp_path / "wiki.jsonl")], heldout_fraction=0.1)]
    corpora += [CorpusConfig(name=name, files=[str(tmp_path / f"{name}.jsonl")]) for name in ("copies", "note")]
    config = DataPrepConfig(output_dir=str(tmp_path / "data"), corpora=corpora, tokenizer=TokenizerConfig(vocab_size=406))
    data = prepare(config)
    path = recipe(data={"shards": str(data.directory), "sequence_length": 32}, source=SHORT, stages=STAGES)
    finished = launch(path, ranks=ranks).finish()
    said = [line.split("data: ", 1)[1] for line in finished.output.splitlines() if "data: the corpus" in line]
    assert said == [
        "the corpus 'copies' is left out, it has no training token",
        "the corpus 'note' is left out, its training shards make no window of 33 tokens",
    ]
    assert json.loads((finished.run_dir / "data.json").read_text())["weights"] == {"32": {"wiki": 1.0}}
    launch(path, f"run_dir={tmp_path / 'asked'}", "data.weights={wiki: 1, note: 1}").refused(
        "the train split of note makes no window of 33 tokens"
    )


@pytest.mark.parametrize("ranks", [pytest.param(0, marks=pytest.mark.full), 2])
def test_documents_that_are_kept_apart_are_scored_each_by_itself(launch, recipe, prepared, ranks):
    """A loop of the test's own reads every document of the held-out windows alone."""
    data = {"shards": str(prepared.directory), "sequence_length": 128, "attention": "document"}
    # Large weights: the context is to count from the start.
    source = {**SHORT, "model": {**SHORT["model"], "initializer_range": 0.2}}
    finished = launch(recipe(data=data, source=source, stages=STAGES), ranks=ranks).finish()
    assert finished.summary["growths"][0]["in_training"]["scored_tokens"] == 9 * 128
    shard = Shard(prepared.shards(prepared.corpora[0], HELDOUT)[0])
    begins = set((shard.offsets // shard.dtype.itemsize).tolist())
    for stage, directory in (("source", "source_model"), ("final", "model")):
        model = AutoModelForCausalLM.from_pretrained(finished.run_dir / directory)
        apart = whole = 0.0
        for window in range(9):
            first = 128 * window
            tokens = torch.from_numpy(shard.tokens[first : first + 129].astype(np.int64))
            cuts = [0, *(i for i in range(1, 128) if first + i in begins), 128]
            for begin, end in itertools.pairwise(cuts):
                apart += summed(model, tokens[begin:end], tokens[begin + 1 : end + 1])
            whole += summed(model, tokens[:-1], tokens[1:])
        # fp32 sums in another order.
        assert finished.summary["losses"][stage] == pytest.approx(apart / (9 * 128), rel=1e-5)
        assert whole / (9 * 128) != pytest.approx(apart / (9 * 128), rel=1e-4)


@torch.no_grad()
def summed(model, inputs, labels) -> float:
    return torch.nn.functional.cross_entropy(model(inputs[None]).logits[0], labels, reduction="sum").item()


@pytest.mark.parametrize("attention", [pytest.param("eager", marks=pytest.mark.full), "sdpa"])
def test_a_masked_model_trains_with_documents_apart_in_bf16(launch, recipe, prepared, attention):
    source = {"model": {**SHORT["model"], "family": "roberta"}, "steps": 2}
    data = {"shards": str(prepared.directory), "sequence_length": 128, "attention": "document"}
    bf16 = {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}
    path = recipe(data=data, source=source, stages=STAGES, attn_implementation=attention)
    launch(path, ds_config=bf16).finish()
