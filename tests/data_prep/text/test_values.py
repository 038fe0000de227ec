import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.text.values import NotJsonError, as_json

ROOT = Path(__file__).resolve().parents[3]


def test_a_set_is_written_in_the_same_order_in_every_process():
    program = "from data_prep.text.values import as_json; print(as_json({'a', 'b', 'c', 'd', 'e', 1, None}))"
    written = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for seed in "1234"
    }
    assert len(written) == 1


def test_what_json_does_not_have_is_refused_and_the_rest_is_written():
    deep: list = []
    for _ in range(99):
        deep = [deep]
    for value in (deep, 2**64 - 1, np.float32(1.5), {"a": {1: (2, b"b")}}):
        json.dumps(as_json(value))
    for value in ([[deep]], 2**64, -(2**64), object(), lambda: 0):
        with pytest.raises(NotJsonError):
            as_json(value)
