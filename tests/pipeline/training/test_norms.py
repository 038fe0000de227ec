"""The gradient's norm rests on private names of DeepSpeed's, each of which is looked for."""

from types import SimpleNamespace

import pytest

from pipeline.common.errors import UserError
from pipeline.training import norms


@pytest.mark.parametrize(("holder", "name"), norms._REPLACED, ids=lambda part: getattr(part, "__name__", part))
def test_a_deepspeed_without_a_name_that_is_replaced_is_refused_by_it(monkeypatch, holder, name):
    monkeypatch.delattr(holder, name)
    with pytest.raises(UserError, match=rf"has no {holder.__name__}\.{name}, .*; install deepspeed 0\.19\.8$"):
        norms.stay_on_the_device(SimpleNamespace())
