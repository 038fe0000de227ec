import subprocess
import sys
from pathlib import Path

from pipeline.common.command import refusal

IMPORTED = """
import sys
from data_prep import commands
from data_prep.stages import tokenize as tokenizing
from data_prep.encoding.libraries import LIBRARIES
print(*sorted({"torch", "transformers", "numba", "datasets", *LIBRARIES, "splintr"} & set(sys.modules)))
"""


def test_the_commands_are_imported_without_what_takes_long_to_import():
    """Of the processes that prepare text only one loads the tokenizer by transformers."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == ""


def test_a_package_that_is_missed_where_it_is_needed_is_named_in_one_sentence():
    missing = ModuleNotFoundError("No module named 'not_a_package'", name="not_a_package")
    assert "the Python package not_a_package is not installed for this interpreter" in refusal(missing)
    assert refusal(ImportError("cannot import name 'x'", name="data_prep.jobs.job")) is None
