"""The formulae against torch's own counter, on the same forward and backward under eager attention."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.families import FAMILIES, sizes_of
from pipeline.flops.counts import StepFlops, training_step
from pipeline.flops.ledger import Ledger
from pipeline.training.optimizer import HEAD, layer_block, parameters_by_block
from pipeline.training.submodel import submodel

SEQUENCES, LENGTH, LAYERS = 2, 16, 4


def counted(model, family, depth, trained):
    """Return torch's count of one step in which the blocks learn that the stage lets learn."""
    sizes = sizes_of(model.config)
    learning = {HEAD, layer_block(depth - trained, depth - 1)} if depth else None
    for (block, _), parameters in parameters_by_block(model, family, sizes, trained or LAYERS).items():
        for parameter in parameters:
            parameter.requires_grad_(learning is None or block in learning)
    input_ids = torch.arange(SEQUENCES * LENGTH).reshape(SEQUENCES, LENGTH)
    with FlopCounterMode(display=False) as counter:
        if depth is None:
            logits = model(input_ids=input_ids).logits
        else:
            with submodel(model, family, depth, trained):
                logits = model(input_ids=input_ids).logits
        logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("depth", "trained"), [(None, None), (2, 2), (4, 2), (1, 1), (3, 1), (4, 4)])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_formula_counts_what_torch_counts(tiny_model, family, tied, depth, trained):
    model = tiny_model(family, tied=tied, layers=LAYERS).float().train()
    model.set_attn_implementation("eager")
    formula = training_step(FAMILIES[family], sizes_of(model.config), LENGTH, SEQUENCES * LENGTH, depth, trained)
    # Equal to the last operation: both count matrix products, and only those.
    assert formula.model == counted(model, FAMILIES[family], depth, trained)
    assert formula.executed == formula.model


def test_the_ledger_adds_up_by_stage():
    ledger = Ledger()
    for stage, flops in [("source", 3), ("full", 5), ("full", 5)]:
        ledger.add(stage, StepFlops(model=flops, executed=2 * flops))
    assert ledger.model == {"source": 3, "full": 10}
    assert ledger.total == 26
