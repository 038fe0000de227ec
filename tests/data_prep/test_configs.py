"""The examples in data_prep/configs."""

from pathlib import Path

import pytest

import data_prep
from data_prep.settings import DataPrepConfig
from pipeline.common.config import read_yaml, validate

FOLDER = Path(data_prep.__file__).parent / "configs"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_a_configuration_and_its_steps_have_what_they_need(path):
    for corpus in validate(DataPrepConfig, read_yaml(path), str(path)).corpora:
        for step in corpus.all_steps:
            step.check()


def test_the_example_of_a_web_corpus_has_the_steps_of_fineweb_and_masks_behind_deduplication():
    """Order, and C4's rule that is off: datatrove's examples/fineweb.py."""
    config = validate(DataPrepConfig, read_yaml(FOLDER / "web.yaml"), "web.yaml")
    (corpus,) = config.corpora
    early = [step.name for step in corpus.early_steps]
    assert early == ["normalize", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb"]
    assert corpus.early_steps[4].filter_no_terminal_punct is False
    assert [step.name for step in corpus.late_steps] == ["length", "mask_pii"]
    assert (config.dedupe.bands, config.dedupe.permutations // config.dedupe.bands) == (14, 8)
