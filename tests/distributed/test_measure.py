"""The grown engine beside its source, which no rank ever holds."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.data.batches import Batches, Corpus
from pipeline.data.examples import WindowExamples
from pipeline.data.objectives import IGNORED, CausalObjective
from pipeline.families import target_config
from pipeline.growth.plan import plan_growth
from pipeline.growth.sources import open_source
from pipeline.growth.token_rows import CarriedTokens, of_tokens
from pipeline.recipe import GrowthConfig, OptimizerConfig, TargetConfig
from pipeline.training import distributed
from pipeline.training.certifying.measure import CarriedText, Text, measure_grown, measure_growth
from pipeline.training.parameter_groups import cut
from tests.distributed.engines import built, engine_config, matrix_elements
from tests.ranks import run_ranks
from tests.shards import MemoryShard

VOCAB, LENGTH, WINDOWS = 50, 16, 5
TOKENS = np.random.default_rng(1).integers(VOCAB, size=(WINDOWS, LENGTH + 1))


class Noticed:
    """A tensor at whose readings the matrices that are alive in this process are counted."""

    def __init__(self, tensor):
        self.shape = tensor.shape
        self.most = 0
        self._tensor = tensor

    def rows(self, start, stop):
        if stop - start > 1:  # counting takes a while; embeddings are looked up row by row
            self.most = max(self.most, matrix_elements())
        return self._tensor.rows(start, stop)


def measure(directory, stage, half=False):
    source = open_source(directory)
    config = target_config(source.config, TargetConfig(hidden_size=64, vocab_size=80))
    plan = plan_growth(source.config, config, GrowthConfig(width="fpi", depth="last_layer"), 3)
    # Small matrices too are let go of after use.
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
    ds_config = engine_config(zero, 2 * distributed.world_size(), bf16=half)
    start = dataclasses.replace(source, state=plan.grow(source.state))
    grown = built(config, ds_config, OptimizerConfig(), cut(config.num_hidden_layers, []), start, "eager")
    before = matrix_elements()
    state = {name: Noticed(tensor) for name, tensor in source.state.items()}
    noticed = dataclasses.replace(source, state=state)
    attention = source.config._attn_implementation
    objective = CausalObjective(LENGTH)
    examples = WindowExamples([MemoryShard(tokens) for tokens in TOKENS], objective, within_documents=False)
    text = Corpus("text", 1.0, examples)
    read = Text(Batches([text], 1), WINDOWS, 2)
    after = measure_grown(grown, plan.carried, read)
    assert grown.engine.training
    measured = measure_growth(noticed, plan.carried, after, read, torch.bfloat16 if half else torch.float32, "eager")
    assert max(tensor.most for tensor in state.values()) == before, "a matrix of the source was held"
    assert source.config._attn_implementation == attention
    return measured


def test_text_of_a_new_tokenizer_is_read_in_the_tokens_that_both_have_and_scored_on_those():
    """Target ids 4, 1 and 0 are the source's 0, 1 and 2; 2 and 3 are new."""
    objective = CausalObjective(4)
    examples = WindowExamples([MemoryShard(np.array([4, 0, 2, 1, 3]))], objective, within_documents=False)
    batches = Batches([Corpus("text", 1.0, examples)], 1)
    carried = CarriedTokens(torch.tensor([2, 1, 0]), torch.tensor([0, 1, 4]))
    batch = CarriedText(batches, carried, 5).heldout(np.zeros(1, dtype=np.int64))
    assert carried.target[batch.input_ids][0, [0, 1, 3]].tolist() == [4, 0, 1]
    assert carried.source[batch.input_ids][0, [0, 1, 3]].tolist() == [0, 2, 1]
    assert batch.labels.tolist() == [[0, IGNORED, 1, IGNORED]]
    logits = torch.arange(10.0).reshape(1, 2, 5)
    assert of_tokens(logits, carried.target)[0, 0].tolist() == [0, 1, 4]
    assert of_tokens(logits, torch.arange(3)).data_ptr() == logits.data_ptr()


def saved_model(directory) -> GPT2LMHeadModel:
    torch.manual_seed(2)
    config = GPT2Config(vocab_size=VOCAB, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.full), 3])
def test_both_losses_are_those_of_hugging_faces_source_where_the_vocabulary_grows_too(tmp_path, stage):
    model = saved_model(tmp_path)
    ranks = run_ranks(measure, 2, tmp_path, stage)
    assert ranks[0] == ranks[1]
    windows = torch.from_numpy(TOKENS)
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    # fp32 sums in another order.
    assert ranks[0]["source_loss"] == pytest.approx(loss, rel=1e-5)
    assert ranks[0]["grown_loss"] == pytest.approx(loss, rel=1e-5)
    assert ranks[0]["max_logit_difference"] < 1e-4
    assert ranks[0]["max_logit"] == pytest.approx(logits[0].abs().max().item(), rel=1e-5)
    assert ranks[0]["scored_tokens"] == WINDOWS * LENGTH
    assert ranks[0]["rounding"] == {"loss": 0.0, "max_logit_difference": 0.0}


def test_an_exact_growth_is_seen_to_be_in_the_engines_precision(tmp_path):
    """Copies of x2 are halves, which bfloat16 has: what moves is rounding's doing, and both models round."""
    saved_model(tmp_path)
    measured, _ = run_ranks(measure, 2, tmp_path, 3, True)
    assert measured["dtype"] == "bfloat16"
    assert measured["rounding"]["max_logit_difference"] > 1e-2 and measured["rounding"]["loss"] != 0
    # One unit in the last place of a logit at most, where sums in another order end beside a boundary.
    assert measured["max_logit_difference"] <= 2**-5
    assert abs(measured["loss_gap"]) < 0.5 * abs(measured["rounding"]["loss"]), measured
