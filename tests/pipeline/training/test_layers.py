"""Layers that are checkpointed or compiled."""

import pytest
import torch

from data_prep.errors import UserError
from pipeline.families import FAMILIES, Section
from pipeline.training.layers import prepare_model
from pipeline.training.losses import summed_loss
from pipeline.training.running import running
from tests.saved import saved_bytes

IDS = torch.randint(5, 50, (3, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_layers_keep_their_input_alone_and_learn_the_same(tiny_model, family):
    table, extra = FAMILIES[family], {"use_cache": False} if FAMILIES[family].objective == "clm" else {}
    kept, gradients = [], []
    for checkpointed in (False, True):
        model = tiny_model(family).train()
        prepare_model(model, table, activation_checkpointing=checkpointed, compile=False)

        def forward(model=model):
            return summed_loss(model(input_ids=IDS, **extra).logits, IDS)

        layers = saved_bytes(model, forward)
        with running(model, table, Section(0, frozenset(), embeddings=True, head=True)):
            kept.append(layers - saved_bytes(model, forward))
        forward().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    hidden = IDS.numel() * 32 * 8
    assert kept[1] == 3 * hidden < kept[0] / 10
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_compiling_without_a_compiler_is_refused(tiny_model, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"compile: torch\.compile needs a C"):
        prepare_model(tiny_model("gpt2"), FAMILIES["gpt2"], activation_checkpointing=False, compile=True)
