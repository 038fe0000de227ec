"""Rows of new tokens under every optimizer, against plain PyTorch in which they are a second parameter."""

import pytest
import torch

from pipeline.training.adamw import FreezableAdamW
from pipeline.training.freezing import Freezable
from pipeline.training.lion import FreezableLion
from pipeline.training.muon import FreezableMuon
from tests.pipeline.training.optimizers import PlainLion

ROWS, WIDTH = 7, 4
NEW = torch.tensor([1, 5, 6])
OLD = torch.tensor([0, 2, 3, 4])
BETAS, EPS = (0.9, 0.98), 1e-8
RATE, DECAY = 1e-2, 0.1
OWN = {"lr": 3e-2, "weight_decay": 0.5}
SAME = {"lr": RATE, "weight_decay": DECAY}
STEPS = [(False, SAME), (False, OWN), (True, SAME), (True, OWN), (False, OWN), (False, SAME)]
"""Whether the rows learn alone, and their rate and decay."""
OPTIMIZERS = {
    "adamw": lambda groups: FreezableAdamW(groups, lr=RATE, betas=BETAS, eps=EPS),
    "lion": lambda groups: FreezableLion(groups, lr=RATE, betas=BETAS),
    # It steps tables of tokens by AdamW.
    "muon": lambda groups: FreezableMuon(groups, {}, torch.float32, lr=RATE, betas=BETAS, eps=EPS),
}


def drawn() -> torch.Tensor:
    """Return the first weights and a gradient for each step."""
    return torch.randn(1 + len(STEPS), ROWS, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def with_new_rows(name: str) -> tuple[Freezable, torch.nn.Parameter]:
    """Return an optimizer over one flat table, some rows of which are new."""
    table = torch.nn.Parameter(drawn()[0].flatten())
    group = {"params": [table], "block": "old", "frozen": False, "muon": False, **SAME}
    optimizer = OPTIMIZERS[name]([group | {"rows": {block: {"frozen": False, **SAME} for block in ("old", "new")}}])
    mask = torch.zeros(ROWS, dtype=torch.bool)
    mask[NEW] = True
    optimizer.row_groups = {table: {"old": ~mask.repeat_interleave(WIDTH), "new": mask.repeat_interleave(WIDTH)}}
    return optimizer, table


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_new_rows_step_as_a_second_parameter_with_their_rate_and_decay(name):
    optimizer, table = with_new_rows(name)
    weights, *gradients = drawn()
    old, new = (torch.nn.Parameter(weights[rows]) for rows in (OLD, NEW))
    groups = [{"params": [part], "lr": RATE, "weight_decay": DECAY} for part in (old, new)]
    plain = PlainLion(groups, BETAS) if name == "lion" else torch.optim.AdamW(groups, betas=BETAS, eps=EPS)
    for (alone, rows), gradient in zip(STEPS, gradients, strict=True):
        settings = optimizer.param_groups[0]["rows"]
        settings["old"]["frozen"] = alone
        settings["new"].update(rows)
        # As the hook on a table leaves it, the others have no gradient where the rows learn alone.
        seen = gradient.clone()
        seen[OLD] *= not alone
        table.grad = seen.flatten()
        old.grad, new.grad = None if alone else gradient[OLD], gradient[NEW]
        plain.param_groups[1].update(rows)
        optimizer.step()
        plain.step()
        found = table.detach().view(ROWS, WIDTH)
        for rows_of, expected in ((OLD, old), (NEW, new)):
            # Elements with an age of their own have their bias corrections in single precision; a step is of 1e-2.
            torch.testing.assert_close(found[rows_of], expected.detach(), rtol=1e-6, atol=1e-6)
        assert list(optimizer.state) == [table]


def test_ages_are_one_number_but_while_new_rows_have_a_rate_of_their_own():
    """As a checkpoint is read: a run that goes on from one steps by the same kernels."""
    optimizer, table = with_new_rows("adamw")
    for rows, dimensions in ((SAME, 0), (OWN, 1), (SAME, 0)):
        optimizer.param_groups[0]["rows"]["new"].update(rows)
        table.grad = drawn()[1].flatten()
        optimizer.step()
        assert optimizer.state[table]["step"].dim() == dimensions


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_fails_leaves_no_parameter_of_the_rows_behind(name):
    optimizer, table = with_new_rows(name)
    optimizer.param_groups[0]["rows"]["new"].update(OWN)
    table.grad = drawn()[1].flatten()
    with pytest.raises(KeyboardInterrupt), optimizer.with_separate_rows(optimizer.unfrozen()) as groups:
        assert [each["lr"] for each in groups] == [OWN["lr"], RATE]
        raise KeyboardInterrupt
    assert list(optimizer.state) == [table]
    assert torch.equal(table.detach(), drawn()[0].flatten())
