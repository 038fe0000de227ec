"""The losses against torch's in float64 and those of Hugging Face's own classes."""

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import deepspeed.runtime.chunked_cross_entropy as theirs
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

from pipeline.data.batches import Batch
from pipeline.data.objectives import IGNORED
from pipeline.families import family_of
from pipeline.training import losses
from pipeline.training.loop.running import scoring
from pipeline.training.losses import logits_of, right, summed_loss, summed_losses

SEQUENCES, LENGTH, VOCAB = 6, 10, 40
SAME = 1e-6
"""Losses of some 4, in float32."""


ROWS = SEQUENCES * LENGTH
CHUNKS = {"one row at a time": 1, "chunks that do not divide the rows": 7, "one chunk": ROWS}


@pytest.fixture(params=[*CHUNKS.values(), None], ids=[*CHUNKS.keys(), "DeepSpeed's"])
def chunk(request, monkeypatch):
    if request.param is None:
        # As on a GPU, by the kernels' arithmetic in torch.
        monkeypatch.setattr(losses, "triton_runs", lambda device: True)
        monkeypatch.setattr(losses, "chunked_cross_entropy", partial(in_torch, block_rows=7))
        return
    # A chunk is of so many logits for each thread.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(losses, "_CPU_CHUNK", request.param * VOCAB + VOCAB - 1)
    assert losses._rows(torch.empty(ROWS, VOCAB)) == request.param


def in_torch(logits, labels, ignored, *, backend, **options):
    assert backend == "triton"
    return theirs.chunked_cross_entropy(logits, labels, ignored, backend="torch", **options)


def drawn(dtype, ignored=0.2):
    draw = torch.Generator().manual_seed(7)
    logits = (4 * torch.randn(SEQUENCES, LENGTH, VOCAB, generator=draw)).to(dtype)
    labels = torch.randint(0, VOCAB, (SEQUENCES, LENGTH), generator=draw)
    return logits, labels.masked_fill(torch.rand(SEQUENCES, LENGTH, generator=draw) < ignored, IGNORED)


def loss_and_gradient(loss, logits, labels, scale=1.0):
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, labels)
    (value * scale).backward()
    return value.detach(), leaf.grad


def plain(logits, labels):
    return cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")


# Logits from -16 to 16: of an fp32 sum over 48 rows some 1e-6 of it is rounding; gradients are at most 1.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_loss_in_chunks_is_the_plain_one_in_float64(chunk, dtype):
    logits, labels = drawn(dtype)
    ours, gradient = loss_and_gradient(summed_loss, logits, labels)
    theirs, expected = loss_and_gradient(plain, logits.double(), labels)
    assert (ours.dtype, gradient.dtype) == (torch.float32, dtype)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-6)
    assert not gradient[labels == IGNORED].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_the_gradient_in_half_precision_is_rounded_once(chunk, dtype):
    logits, labels = drawn(dtype)
    # As large as fp16's first loss scale: without it most probabilities would be none.
    _, gradient = loss_and_gradient(summed_loss, logits, labels, 2.0**15)
    _, expected = loss_and_gradient(lambda leaf, labels: plain(leaf.float(), labels), logits, labels, 2.0**15)
    # Half of the last digit's spacing is rounding; where that of fp32 turns it, the neighbour: one spacing.
    torch.testing.assert_close(gradient, expected, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)
    assert (gradient == expected).float().mean() > 0.99


def test_a_batch_without_a_scored_token_has_no_loss_and_no_gradient(chunk):
    logits, labels = drawn(torch.float32, ignored=1.1)
    loss, gradient = loss_and_gradient(summed_loss, logits, labels)
    assert loss == 0 and not gradient.any()


def test_a_head_that_ran_on_no_position_has_no_loss_and_a_gradient_of_its_shape():
    loss, gradient = loss_and_gradient(summed_loss, torch.empty(0, VOCAB), torch.empty(0, dtype=torch.long))
    assert loss == 0 and gradient.shape == (0, VOCAB)


def test_a_logit_that_is_not_finite_is_seen_in_the_loss(chunk):
    logits, labels = drawn(torch.bfloat16)
    logits[0, labels[0] != IGNORED] = torch.nan
    assert summed_loss(logits, labels).isnan()


@pytest.mark.parametrize("scale", [2.0**-24, 2.0**15, 2.0**40])
def test_the_gradient_of_a_loss_scaled_low_or_high_is_that_of_float64(chunk, scale):
    logits, labels = drawn(torch.float32)
    _, gradient = loss_and_gradient(summed_loss, logits, labels, scale)
    _, expected = loss_and_gradient(plain, logits.double(), labels, scale)
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-6 * scale)


def test_a_scale_too_large_for_fp16_is_seen_in_the_gradient_as_an_overflow(chunk):
    logits, labels = drawn(torch.float16)
    _, gradient = loss_and_gradient(summed_loss, logits, labels, 2.0**17)
    assert gradient.isinf().any()


# --- the kernels of a GPU -------------------------------------------------------------------------

INTERPRETED = """
import sys

import torch
import triton
import triton.language as tl

import deepspeed.ops.triton_ops._triton as shared

shared._TRITON_AVAILABLE, shared.triton, shared.tl = True, triton, tl
import deepspeed.runtime.chunked_cross_entropy as theirs

# What is interpreted reads the CPU's memory.
theirs._resolve_backend = lambda backend, logits: backend
from pipeline.training import losses

losses.triton_runs = lambda device: True
from tests.pipeline.training.test_losses import check_kernels

check_kernels(torch.device("cpu"))
print("checked")
"""


def check_kernels(device):
    """Hold the loss against float64: vocabularies of less and more than the kernels' block, of odd and even length."""
    draw = torch.Generator().manual_seed(9)
    for vocabulary in (50, 4096, 9001):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            logits = (4 * torch.randn(7, vocabulary, generator=draw)).to(device, dtype)
            labels = torch.tensor([0, 3, IGNORED, vocabulary - 1, 7, IGNORED, 1], device=device)
            # A column that a padded head makes.
            logits[:, 9] = -torch.inf
            for scale in (1.0, 2.0**15):
                ours, gradient = loss_and_gradient(summed_loss, logits, labels, scale)
                expected, exact = loss_and_gradient(plain, logits.double(), labels, scale)
                assert ours.dtype is torch.float32 and gradient.dtype is dtype
                assert ours.item() == pytest.approx(expected.item(), rel=1e-6)
                assert not gradient[labels == IGNORED].any() and not gradient[:, 9].any()
                # Triton's interpreter cuts bf16 off where a GPU rounds: one spacing.
                rounding = 0 if dtype is torch.float32 else torch.finfo(dtype).eps
                floor = max(1e-6 * scale, torch.finfo(dtype).tiny)
                torch.testing.assert_close(gradient.double(), exact, rtol=rounding, atol=floor)
    none = torch.full((7,), IGNORED, device=device)
    loss, gradient = loss_and_gradient(summed_loss, logits, none)
    assert loss == 0 and not gradient.any()
    logits[1, 5] = torch.nan
    assert summed_loss(logits, labels).isnan()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed; pip install triton")
def test_the_kernels_of_the_loss_interpreted_are_the_plain_one_in_float64():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], capture_output=True, text=True, timeout=300, env=environment, cwd=root
    )
    assert done.stdout.strip().endswith("checked"), done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_kernels_of_the_loss_on_a_gpu_are_the_plain_one_in_float64():
    device = torch.device("cuda")
    assert losses.triton_runs(device)
    check_kernels(device)


def model_of(model_class):
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=VOCAB, **sizes, initializer_range=0.5, architectures=[model_class.__name__])
    return model_class(config).eval()


def batch_of(pairs=True):
    draw = torch.Generator().manual_seed(5)
    ids = torch.randint(5, VOCAB, (SEQUENCES, LENGTH), generator=draw)
    labels = torch.where(torch.rand(SEQUENCES, LENGTH, generator=draw) < 0.3, ids, IGNORED)
    if not pairs:
        return Batch(ids, labels)
    lengths = torch.arange(5, 5 + SEQUENCES)[:, None]
    places = torch.arange(LENGTH)
    seen = places < lengths
    pairs = {"token_type_ids": (seen & (places >= lengths // 2)).long(), "attention_mask": seen.long()}
    return Batch(ids, labels.where(seen, IGNORED), **pairs, pair_labels=torch.tensor([0, 1, 1, 0, 1, 0]))


def rows_of(batch, rows):
    fields = ("input_ids", "labels", "token_type_ids", "attention_mask", "pair_labels")
    return Batch(**{name: getattr(batch, name)[rows].clone() for name in fields})


def sums_of(model, batch):
    logits = logits_of(family_of(model.config), model(**batch.inputs(torch.device("cpu"))))
    return summed_losses(logits, batch.labels, batch.pair_labels)


def sums_of_scored(model, batch):
    """The same, the head run on the scored positions alone."""
    family = family_of(model.config)
    with scoring(model, family, batch.labels) as labels:
        logits = logits_of(family, model(**batch.inputs(torch.device("cpu"))))
    assert logits.tokens.shape == (batch.scored, VOCAB)
    return summed_losses(logits, labels, batch.pair_labels)


def test_the_two_means_added_are_berts_pre_training_loss():
    model, batch = model_of(BertForPreTraining), batch_of()
    theirs = model(**batch.inputs(torch.device("cpu")), labels=batch.labels, next_sentence_label=batch.pair_labels).loss
    ours = sums_of(model, batch).mean(batch.scored, batch.scored_pairs)
    assert ours.item() == pytest.approx(theirs.item(), abs=SAME)
    theirs.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    ours.backward()
    for name, parameter in model.named_parameters():
        # Float32 sums of a few hundred products, in another order.
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-4, atol=1e-6), name


def test_without_pairs_it_is_the_loss_of_masked_words():
    model, batch = model_of(BertForMaskedLM), batch_of(pairs=False)
    theirs = model(input_ids=batch.input_ids, labels=batch.labels).loss
    sums = sums_of(model, batch)
    assert sums.pairs is None and batch.scored_pairs == 0
    assert sums.mean(batch.scored, 0).item() == pytest.approx(theirs.item(), abs=SAME)


def test_parts_of_a_batch_add_up_to_it():
    model, batch = model_of(BertForPreTraining), batch_of()
    parts = [rows_of(batch, rows) for rows in (slice(0, 1), slice(1, 6))]
    means = [sums_of(model, part).mean(batch.scored, batch.scored_pairs) for part in parts]
    whole = sums_of(model, batch).mean(batch.scored, batch.scored_pairs)
    assert sum(means).item() == pytest.approx(whole.item(), abs=SAME)


def test_the_head_run_on_the_scored_positions_alone_comes_to_the_same():
    model, batch = model_of(BertForPreTraining), batch_of()
    some, whole = sums_of_scored(model, batch), sums_of(model, batch)
    assert some.tokens.item() == pytest.approx(whole.tokens.item(), rel=SAME)
    assert some.pairs.item() == whole.pairs.item()


@pytest.mark.parametrize("sums", [sums_of, sums_of_scored])
def test_a_batch_that_scores_nothing_has_a_loss_of_nothing_and_a_gradient(sums):
    model, batch = model_of(BertForPreTraining), batch_of()
    batch.ignore(torch.ones(SEQUENCES, dtype=torch.bool))
    assert (batch.scored, batch.scored_pairs) == (0, 0)
    loss = sums(model, batch).mean(batch.scored, batch.scored_pairs)
    loss.backward()
    assert loss.item() == 0 and not model.bert.pooler.dense.weight.grad.any()


def test_ignored_sequences_count_nowhere():
    model, batch = model_of(BertForPreTraining), batch_of()
    first = rows_of(batch, slice(0, 4))
    batch.ignore(torch.arange(SEQUENCES) >= 4)
    assert (batch.scored, batch.scored_pairs) == (first.scored, 4)
    some, all_of_them = sums_of(model, first), sums_of(model, batch)
    assert some.tokens.item() == pytest.approx(all_of_them.tokens.item(), rel=SAME)
    assert some.pairs.item() == pytest.approx(all_of_them.pairs.item(), rel=SAME)


def test_what_is_right_is_counted_and_what_is_ignored_is_not():
    logits = torch.tensor([[[0.0, 2.0], [3.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    assert right(logits, torch.tensor([[1, 1], [IGNORED, 1]])) == 2
    assert right(logits[0], torch.tensor([1, 0])) == 2
