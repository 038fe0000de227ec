"""The papers' equations in numbers worked out by hand, on models small enough to write down.

GPT-2's Conv1D stores [in, out], as bert2BERT writes its matrices; every list below is in storage order.
"""

import math

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from pipeline.growth.initialization import initialized
from pipeline.recipe import GrowthConfig
from tests.pipeline.growth.models import grown_tensors, plan_of, small_model

FC, PROJ = "transformer.h.{}.mlp.c_fc.weight", "transformer.h.{}.mlp.c_proj.weight"
S = 1.224744871391589  # sqrt(6 / 4)
HALF_S = 0.8660254037844386  # sqrt(3 / 4)


def gpt2(hidden, heads, layers=1, ffn=2, tied=True, **weights):
    """A GPT-2 over two words and two positions, zero but for `weights`; a dot in a name is written as two underscores."""
    config = GPT2Config(
        n_embd=hidden,
        n_head=heads,
        n_layer=layers,
        n_inner=ffn,
        vocab_size=2,
        n_positions=2,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
    )
    return filled(GPT2LMHeadModel(config), {f"transformer.{name.replace('__', '.')}": value for name, value in weights.items()})


def filled(model, weights):
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, value in weights.items():
            model.get_parameter(name).copy_(torch.tensor(value, dtype=torch.float64))
    return model


def grow(model, target, **growth):
    plan, _ = plan_of(model, target, growth)
    tensors = grown_tensors(plan, model)
    return lambda name: tensors[name].tolist() if name in tensors else tensors["transformer." + name].tolist()


def test_fpi():
    """bert2BERT eq. 7-9, 12, 13: g_in = g_e = (0, 1, 0, 1) with C = 2, g_out^1 = g_in^2 = (0, 1, 0) with C = (2, 1, 2)."""
    model = gpt2(
        2,
        1,
        wte__weight=[[1, 2], [3, 4]],
        h__0__ln_1__weight=[5, 7],
        h__0__ln_1__bias=[6, 8],
        h__0__mlp__c_fc__weight=[[1, 2], [3, 4]],
        h__0__mlp__c_fc__bias=[9, 10],
        h__0__mlp__c_proj__weight=[[10, 20], [30, 40]],
        h__0__mlp__c_proj__bias=[11, 12],
        ln_f__weight=[4, 6],
        ln_f__bias=[8, 2],
    )
    after = grow(model, {"hidden_size": 4, "intermediate_size": 3}, width="fpi")
    assert after("wte.weight") == [[1, 2, 1, 2], [3, 4, 3, 4]]
    assert after("h.0.ln_1.weight") == [5, 7, 5, 7]
    assert after("h.0.ln_1.bias") == [6, 8, 6, 8]
    assert after("h.0.mlp.c_fc.weight") == [[0.5, 1, 0.5], [1.5, 2, 1.5], [0.5, 1, 0.5], [1.5, 2, 1.5]]
    assert after("h.0.mlp.c_fc.bias") == [9, 10, 9]
    assert after("h.0.mlp.c_proj.weight") == [[5, 10, 5, 10], [30, 40, 30, 40], [5, 10, 5, 10]]
    assert after("h.0.mlp.c_proj.bias") == [11, 12, 11, 12]
    # The output matrix is the embedding: its 1/C is the final norm's.
    assert after("ln_f.weight") == [2, 3, 2, 3]
    assert after("ln_f.bias") == [4, 1, 4, 1]


def test_shrink_pad_perturb():
    """Warmstarting: W' = .4 pad(W) + I of matrices that grow; gains and biases as direct_copy has them."""
    model = small_model("gpt2")
    copied, shrunk = (plan_of(model, {"hidden_size": 48}, {"width": "direct_copy"} | more)[0] for more in ({}, {"shrink": 0.4}))
    before, after = grown_tensors(copied, model), grown_tensors(shrunk, model)
    for name, initial in initialized(shrunk.family, shrunk.config, shrunk.seed).items():
        drawn = initial.rows(0, initial.shape[0]).double()
        padded = torch.where(before[name] == drawn, 0.0, before[name])
        assert padded.any(), name
        expected = 0.4 * padded + drawn if padded.dim() > 1 else before[name]
        torch.testing.assert_close(after[name], expected, rtol=1e-12, atol=1e-14)


def test_a_shrunk_matrix_is_of_no_gradient_that_moments_are_of():
    with pytest.raises(ValueError, match="`shrink` adds noise to weights"):
        GrowthConfig(width="direct_copy", shrink=0.4, optimizer_state="grow")


def test_fpi_of_an_output_matrix_of_its_own():
    """bert2BERT eq. 7 on a classifier that is not the embedding; its norm stays."""
    model = gpt2(2, 1, tied=False, ln_f__weight=[4, 6], wte__weight=[[1, 2], [3, 4]])
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.tensor([[2.0, 4.0], [6.0, 8.0]]))
    after = grow(model, {"hidden_size": 4}, width="fpi")
    assert after("lm_head.weight") == [[1, 2, 1, 2], [3, 4, 3, 4]]
    assert after("ln_f.weight") == [4, 6, 4, 6]


def test_fpi_of_heads():
    """bert2BERT eq. 10-11: whole heads. Two heads of 2 become three, g = (0, 1, 0); BERT's query and output projection."""
    config = BertConfig(
        hidden_size=4,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=2,
        vocab_size=2,
        max_position_embeddings=2,
        pad_token_id=None,
    )
    attention = "bert.encoder.layer.0.attention."
    weights = {
        attention + "self.query.weight": [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]],
        attention + "self.query.bias": [1, 2, 3, 4],
        attention + "output.dense.weight": [[2, 4, 6, 8], [10, 12, 14, 16], [18, 20, 22, 24], [26, 28, 30, 32]],
    }
    after = grow(filled(BertForMaskedLM(config), weights), {"hidden_size": 6}, width="fpi")
    # Columns: the residual map (0, 1, 2, 3, 0, 1), C = (2, 2, 1, 1, 2, 2). Rows: heads 0, 1, 0.
    assert after(attention + "self.query.weight") == [
        [0.5, 1, 3, 4, 0.5, 1],
        [2.5, 3, 7, 8, 2.5, 3],
        [4.5, 5, 11, 12, 4.5, 5],
        [6.5, 7, 15, 16, 6.5, 7],
        [0.5, 1, 3, 4, 0.5, 1],
        [2.5, 3, 7, 8, 2.5, 3],
    ]
    assert after(attention + "self.query.bias") == [1, 2, 3, 4, 1, 2]
    # Columns: channels of heads 0, 1, 0 with C = (2, 1, 2). Rows: the residual map.
    assert after(attention + "output.dense.weight") == [
        [1, 2, 6, 8, 1, 2],
        [5, 6, 14, 16, 5, 6],
        [9, 10, 22, 24, 9, 10],
        [13, 14, 30, 32, 13, 14],
        [1, 2, 6, 8, 1, 2],
        [5, 6, 14, 16, 5, 6],
    ]


def test_aki():
    """bert2BERT eq. 14-16: the new third unit and the new residual rows of layer 0 are layer 1's, each divided by C_in."""
    model = gpt2(
        2,
        1,
        layers=2,
        h__0__mlp__c_fc__weight=[[1, 2], [3, 4]],
        h__1__mlp__c_fc__weight=[[10, 20], [30, 40]],
        h__0__mlp__c_fc__bias=[1, 2],
        h__1__mlp__c_fc__bias=[3, 4],
        h__0__mlp__c_proj__weight=[[1, 2], [3, 4]],
        h__1__mlp__c_proj__weight=[[10, 20], [30, 40]],
        h__0__ln_2__weight=[5, 6],
        h__1__ln_2__weight=[7, 8],
        wte__weight=[[1, 2], [3, 4]],
    )
    after = grow(model, {"hidden_size": 4, "intermediate_size": 3}, width="aki")
    assert after(FC.format(0)) == [[0.5, 1, 5], [1.5, 2, 15], [0.5, 1, 5], [1.5, 2, 15]]
    assert after("h.0.mlp.c_fc.bias") == [1, 2, 3]
    assert after(PROJ.format(0)) == [[0.5, 1, 5, 10], [3, 4, 30, 40], [0.5, 1, 5, 10]]
    assert after("h.0.ln_2.weight") == [5, 6, 5, 6]
    assert after("wte.weight") == [[1, 2, 1, 2], [3, 4, 3, 4]]
    # Nothing is above the last layer.
    assert after(FC.format(1)) == [[5, 10, 5], [15, 20, 15], [5, 10, 5], [15, 20, 15]]
    assert after("h.1.mlp.c_fc.bias") == [3, 4, 3]


Q = [[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34], [41, 42, 43, 44]]
# NAI eq. 11-13: [X_0, X_1] becomes [X_0, X_1, X_1]; inputs of head 1's channels are halved.
NAI_Q = [
    [11, 12, 13, 14, 13, 14],
    [21, 22, 23, 24, 23, 24],
    [15.5, 16, 16.5, 17, 16.5, 17],
    [20.5, 21, 21.5, 22, 21.5, 22],
    [15.5, 16, 16.5, 17, 16.5, 17],
    [20.5, 21, 21.5, 22, 21.5, 22],
]


@pytest.mark.parametrize("paper_factor", [False, True])
@pytest.mark.parametrize("neighbours", ["block", "last"])
def test_nai(neighbours, paper_factor):
    """The worked example of NAI 3.3.1, with heads of 2 in the place of 64; both readings of it agree."""
    fused = [[*row, *(100 * x for x in row), *(1000 * x for x in row)] for row in Q]
    model = gpt2(
        4,
        2,
        ffn=4,
        wte__weight=[[1, 2, 3, 4], [5, 6, 7, 8]],
        h__0__ln_1__weight=[1, 2, 3, 4],
        h__0__attn__c_attn__weight=fused,
        h__0__attn__c_attn__bias=[*range(1, 13)],
        h__0__attn__c_proj__weight=Q,
    )
    after = grow(model, {"hidden_size": 6}, width="nai", neighbours=neighbours, paper_factor=paper_factor)
    assert after("wte.weight") == [[1, 2, 3, 4, 3, 4], [5, 6, 7, 8, 7, 8]]
    assert after("h.0.ln_1.weight") == [1, 2, 3, 4, 3, 4]
    factor = 1.1066819197003216 if paper_factor else 1.0  # (6 / 4)^(1/4), eq. 8
    for row, expected in zip(after("h.0.attn.c_attn.weight"), NAI_Q, strict=True):
        assert row[:6] == pytest.approx([factor * x for x in expected], rel=1e-14)
        assert row[6:12] == pytest.approx([100 * factor * x for x in expected], rel=1e-14)
        assert row[12:] == [1000 * x for x in expected]
    bias = after("h.0.attn.c_attn.bias")
    assert bias[:6] == pytest.approx([factor * x for x in [1, 2, 3, 4, 3, 4]], rel=1e-14)
    assert bias[12:] == [9, 10, 11, 12, 11, 12]
    assert after("h.0.attn.c_proj.weight") == NAI_Q


def test_nai_of_more_heads_than_one():
    """Two heads become four: the last two in order, or the last one twice."""
    model = gpt2(4, 2, ffn=4, wte__weight=[[1, 2, 3, 4], [5, 6, 7, 8]], h__0__attn__c_proj__weight=[[12] * 4] * 4)
    block = grow(model, {"hidden_size": 8}, width="nai")
    last = grow(model, {"hidden_size": 8}, width="nai", neighbours="last")
    assert block("wte.weight")[0] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert last("wte.weight")[0] == [1, 2, 3, 4, 3, 4, 3, 4]
    assert [row[0] for row in block("h.0.attn.c_proj.weight")] == [6] * 8
    assert [row[0] for row in last("h.0.attn.c_proj.weight")] == [12, 12, 4, 4, 4, 4, 4, 4]


def numbered(layers):
    """Layer l's first norm has the bias l + 1, its output projection the weights 10 (l + 1)."""
    weights = {}
    for layer in range(layers):
        weights[f"h__{layer}__ln_1__bias"] = [layer + 1] * 2
        weights[f"h__{layer}__mlp__c_proj__weight"] = [[10 * (layer + 1)] * 2] * 2
        weights[f"h__{layer}__attn__c_proj__bias"] = [100 * (layer + 1)] * 2
    return gpt2(2, 1, layers=layers, **weights)


@pytest.mark.parametrize(
    ("growth", "target", "biases", "outputs"),
    [
        # bert2BERT algorithm 1: k = 2 times the stack, then its top 8 - 2 x 3 layers.
        ({"depth": "stack"}, 8, [1, 2, 3, 1, 2, 3, 2, 3], [10, 20, 30, 10, 20, 30, 20, 30]),
        ({"depth": "stack"}, 4, [1, 2, 3, 3], [10, 20, 30, 30]),
        # MIDAS: block ceil(n / 2) of n is there twice: blocks of a layer; of two, one above; of three, and then of two.
        ({"depth": "midas"}, 4, [1, 2, 2, 3], [10, 20, 20, 30]),
        ({"depth": "midas"}, 5, [1, 2, 1, 2, 3], [10, 20, 10, 20, 30]),
        ({"depth": "midas"}, 6, [1, 2, 3, 1, 2, 3], [10, 20, 30, 10, 20, 30]),
        ({"depth": "midas"}, 8, [1, 2, 3, 1, 3, 1, 2, 3], [10, 20, 30, 10, 30, 10, 20, 30]),
        # NAI algorithm 1: the last layer again, its output layers zero.
        ({"depth": "last_layer"}, 5, [1, 2, 3, 3, 3], [10, 20, 30, 0, 0]),
        ({"depth": "interleave"}, 6, [1, 1, 2, 2, 3, 3], [10, 0, 20, 0, 30, 0]),
        ({"depth": "interleave"}, 5, [1, 1, 2, 2, 3], [10, 0, 20, 0, 30]),
        ({"depth": "list", "layers": [2, 0, 0, 1]}, 4, [3, 1, 1, 2], [30, 10, 10, 20]),
    ],
)
def test_depth(growth, target, biases, outputs):
    after = grow(numbered(3), {"num_hidden_layers": target}, **growth)
    assert [after(f"h.{layer}.ln_1.bias")[0] for layer in range(target)] == biases
    assert [after(PROJ.format(layer))[1][1] for layer in range(target)] == outputs
    assert [after(f"h.{layer}.attn.c_proj.bias")[1] for layer in range(target)] == [10 * output for output in outputs]


def test_zero_pad():
    """Transfer training: the source in the corner, small values around it; norms go on with gain 1, biases with 0."""
    model = gpt2(
        2,
        1,
        h__0__mlp__c_fc__weight=[[1, 2], [3, 4]],
        h__0__mlp__c_fc__bias=[5, 6],
        h__0__ln_2__weight=[7, 8],
        h__0__ln_2__bias=[9, 10],
        ln_f__weight=[3, 5],
        wte__weight=[[1, 2], [3, 4]],
    )
    after = grow(model, {"hidden_size": 4, "intermediate_size": 3}, width="zero_pad", noise=1e-3)
    grown = torch.tensor(after("h.0.mlp.c_fc.weight"))
    assert grown[:2, :2].tolist() == [[1, 2], [3, 4]]
    around = torch.cat([grown[2:].flatten(), grown[:2, 2]])
    # Values 1, 2, 3, 4 have the deviation sqrt(5/3); a standard normal beyond 5 comes once in two million.
    assert ((around != 0) & (around.abs() < 5e-3 * math.sqrt(5 / 3))).all()
    assert after("h.0.mlp.c_fc.bias") == [5, 6, 0]
    assert after("h.0.ln_2.weight") == [7, 8, 1, 1]
    assert after("h.0.ln_2.bias") == [9, 10, 0, 0]
    assert after("ln_f.weight") == [3, 5, 1, 1]
    assert [row[:2] for row in after("wte.weight")] == [[1, 2], [3, 4]]


def test_scaled_zero_pad():
    """Four times the width: writers times sqrt(4), gains over 2, the tied final gain over 4, its bias over 2."""
    model = gpt2(
        2,
        1,
        wte__weight=[[1, 2], [3, 4]],
        h__0__ln_2__weight=[4, 6],
        h__0__ln_2__bias=[4, 6],
        h__0__mlp__c_fc__weight=[[1, 2], [3, 4]],
        h__0__mlp__c_proj__weight=[[1, 2], [3, 4]],
        h__0__mlp__c_proj__bias=[5, 6],
        ln_f__weight=[8, 12],
        ln_f__bias=[4, 6],
    )
    after = grow(model, {"hidden_size": 8, "intermediate_size": 3}, width="zero_pad", scaled=True)
    zeros = [0] * 6
    assert after("wte.weight") == [[2, 4, *zeros], [6, 8, *zeros]]
    assert after("h.0.ln_2.weight") == [2, 3, *[1] * 6]
    assert after("h.0.ln_2.bias") == [4, 6, *zeros]
    assert [row[:2] for row in after("h.0.mlp.c_fc.weight")] == [[1, 2], [3, 4], *[[0, 0]] * 6]
    assert all(row[2] != 0 for row in after("h.0.mlp.c_fc.weight")[:2])
    assert after("h.0.mlp.c_proj.weight") == [[2, 4, *zeros], [6, 8, *zeros], [0, 0, *zeros]]
    assert after("h.0.mlp.c_proj.bias") == [10, 12, *zeros]
    assert after("ln_f.weight") == [2, 3, *[1] * 6]
    assert after("ln_f.bias") == [2, 3, *zeros]


def test_average_pad():
    """Two more channels at the mean of the four: writers times s = sqrt(6 / 4), gains over s."""
    model = gpt2(
        4,
        2,
        wte__weight=[[1, 2, 3, 6], [5, 5, 5, 9]],
        h__0__ln_2__weight=[3, 6, 9, 12],
        h__0__ln_2__bias=[1, 2, 3, 4],
        h__0__mlp__c_fc__weight=[[1, 2], [3, 4], [5, 6], [7, 8]],
        h__0__mlp__c_proj__weight=[[1, 2, 3, 6], [0, 0, 0, 4]],
        ln_f__weight=[3, 6, 9, 12],
        ln_f__bias=[1, 2, 3, 4],
    )
    after = grow(model, {"hidden_size": 6, "intermediate_size": 2}, width="average_pad")

    def scaled(values, by):
        return pytest.approx([value * by for value in values], rel=1e-14)

    assert after("wte.weight")[0] == scaled([1, 2, 3, 6, 3, 3], S)
    assert after("wte.weight")[1] == scaled([5, 5, 5, 9, 6, 6], S)
    assert after("h.0.ln_2.weight") == [*scaled([3, 6, 9, 12], 1 / S).expected, 1, 1]
    assert after("h.0.ln_2.bias") == [1, 2, 3, 4, 0, 0]
    assert after("h.0.mlp.c_fc.weight")[:4] == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert all(value != 0 for row in after("h.0.mlp.c_fc.weight")[4:] for value in row)
    assert after("h.0.mlp.c_proj.weight")[0] == scaled([1, 2, 3, 6, 3, 3], S)
    assert after("h.0.mlp.c_proj.weight")[1] == scaled([0, 0, 0, 4, 1, 1], S)
    assert after("ln_f.weight") == pytest.approx([2, 4, 6, 8, 1, 1], rel=1e-14)
    assert after("ln_f.bias") == scaled([1, 2, 3, 4, 0, 0], 1 / S)


def test_exact_aki():
    """The new third unit reads as the next layer's first and writes nothing; the stream is average-padded."""
    model = gpt2(
        4,
        2,
        layers=2,
        h__0__mlp__c_fc__weight=[[1, 2], [3, 4], [5, 6], [7, 8]],
        h__1__mlp__c_fc__weight=[[10, 20], [30, 40], [50, 60], [70, 80]],
        h__0__mlp__c_fc__bias=[1, 2],
        h__1__mlp__c_fc__bias=[3, 4],
        h__0__mlp__c_proj__weight=[[1, 2, 3, 6], [0, 0, 0, 4]],
    )
    after = grow(model, {"hidden_size": 6, "intermediate_size": 3}, width="exact_aki")
    assert after(FC.format(0))[:4] == [[1, 2, 10], [3, 4, 30], [5, 6, 50], [7, 8, 70]]
    assert after(FC.format(1))[:4] == [[10, 20, 10], [30, 40, 30], [50, 60, 50], [70, 80, 70]]
    assert all(value != 0 for row in after(FC.format(0))[4:] for value in row)
    assert after("h.0.mlp.c_fc.bias") == [1, 2, 3]
    assert after(PROJ.format(0))[0] == pytest.approx([x * S for x in [1, 2, 3, 6, 3, 3]], rel=1e-14)
    assert after(PROJ.format(0))[2] == [0] * 6


def test_square_root_counts():
    """Two channels become eight with C = 4: embeddings over sqrt(4) and times sqrt(8 / 2), which is as they were."""
    model = gpt2(2, 1, wte__weight=[[1, 2], [3, 4]], h__0__ln_1__weight=[5, 6], ln_f__weight=[8, 12], ln_f__bias=[4, 8])
    after = grow(model, {"hidden_size": 8}, width="sqrt_count")
    assert after("wte.weight")[0] == [1, 2] * 4
    assert after("h.0.ln_1.weight") == [5, 6] * 4
    assert after("ln_f.weight") == [2, 3] * 4
    assert after("ln_f.bias") == [1, 2] * 4
    # At x1.5 and g = (0, 1, 0), C = (2, 1, 2), s = sqrt(3 / 2): h s / sqrt(C), gain sqrt(C) / s, final gain over s^2.
    model = gpt2(2, 2, wte__weight=[[2, 4], [0, 0]], h__0__ln_1__weight=[1, 1], ln_f__weight=[3, 6])
    after = grow(model, {"hidden_size": 3}, width="sqrt_count")
    assert after("wte.weight")[0] == pytest.approx([2 * HALF_S, 4 * S, 2 * HALF_S], rel=1e-14)
    assert after("h.0.ln_1.weight") == pytest.approx([1 / HALF_S, 1 / S, 1 / HALF_S], rel=1e-14)
    assert after("ln_f.weight") == pytest.approx([2, 4, 2], rel=1e-14)
