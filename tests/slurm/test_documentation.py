"""The commands of the documents that need Slurm are ones that Slurm takes."""

import re

import pytest

from tests.documentation import blocks
from tests.slurm.cluster import ROOT

pytestmark = pytest.mark.slurm

CODE = [line for block in blocks("bash") if block.title == "Needs Slurm" for line in block.lines]
SBATCH = [words for line in CODE for words in re.findall(r"sbatch ([^;]*)", line)]
PIPELINE = [line for line in CODE if line.startswith("launch/slurm/pipeline.sh")]


def test_each_sbatch_command_names_a_script_and_options_that_slurm_takes(cluster):
    """On nodes of eight GPUs, as far as Slurm knows; nothing is run."""
    assert SBATCH and {script.name for script in (ROOT / "launch/slurm").glob("*.sbatch")} == {
        re.search(r"(\w+\.sbatch)", words)[1] for words in SBATCH
    }
    for words in SBATCH:
        ended = cluster.attempt("sbatch", "--test-only", *words.split())
        assert ended.returncode == 0 and "to start at" in ended.stderr, (words, ended.stderr)


def test_each_option_of_the_chain_is_one_that_its_help_lists(cluster):
    listed = cluster.client(str(ROOT / "launch/slurm/pipeline.sh"), "--help")
    assert PIPELINE
    for option in re.findall(r"--\w+", " ".join(PIPELINE)):
        assert re.search(rf"^  {option} ", listed, flags=re.MULTILINE), option
