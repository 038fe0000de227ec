import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from data_prep.dedupe.deduplicate import deduplicate
from data_prep.jobs.job import Job
from data_prep.jobs.workers import Alone
from data_prep.plans.drafting import draft_plan
from data_prep.settings import TokenizerConfig
from data_prep.stages import provide_tokenizer as tokenizer_stage
from data_prep.stages.clean import Clean
from data_prep.stages.provide_tokenizer import ProvideTokenizer
from data_prep.text.document_parts import DocumentParts
from tests.data_prep.preparing import preparation, write_jsonl
from tests.data_prep.prose import made_up_texts
from tests.shards import SPECIAL


def sampled(root: Path, monkeypatch: pytest.MonkeyPatch, sample_characters: int, **corpus: object) -> list[str]:
    """The texts that a tokenizer is trained on; one of a few pieces takes its place."""
    found: list[str] = []
    folders: list[Path] = []

    def train(texts: Iterable[str], config: TokenizerConfig, folder: Path) -> None:
        found.extend(texts)
        folders.append(folder)
        (folder / "vocab.txt").write_text("\n".join(SPECIAL), encoding="utf-8")

    monkeypatch.setattr(tokenizer_stage, "train_tokenizer", train)
    tokenizer = {"vocab_size": 300, "sample_characters": sample_characters}
    plan = draft_plan(preparation("-", corpus, tokenizer=tokenizer, part_mib=1))
    job = Job(root / "out", "digest", Alone())
    clean = Clean(plan, {item.name: item.modified for item in plan.inputs})
    parts = DocumentParts(job.root, clean.parts(job.run(clean)))
    job.run(ProvideTokenizer(plan, parts, deduplicate(job, plan, parts)))
    (folder,) = folders
    assert folder.is_relative_to(job.root / "work") and not folder.exists(), "written elsewhere before it is whole"
    return found


def test_a_sample_smaller_than_a_document_holds_the_first_to_train_on(tmp_path, monkeypatch):
    texts = made_up_texts(12, words=2300)
    assert min(map(len, texts)) > 10_000
    files, heldout = [write_jsonl(tmp_path / "a.jsonl", texts[1:])], [write_jsonl(tmp_path / "b.jsonl", texts[:1])]
    assert sampled(tmp_path, monkeypatch, 10_000, files=files, heldout_files=heldout) == [texts[1]]


def test_the_sample_is_even_over_what_is_trained_on_and_as_large_as_asked(tmp_path, monkeypatch):
    # In several parts, every second document a copy, and more held out than trained on.
    texts = made_up_texts(3000, words=200)
    files = [write_jsonl(tmp_path / "a.jsonl", [text for text in texts for _ in range(2)])]
    heldout = [write_jsonl(tmp_path / "b.jsonl", made_up_texts(6000, seed=1, words=200))]
    asked = sum(map(len, texts)) // 20
    sample = sampled(tmp_path, monkeypatch, asked, files=files, heldout_files=heldout)
    assert len(list((tmp_path / "out" / "work" / "clean").glob("*.parquet"))) > 4
    places = [texts.index(text) for text in sample]
    # Every 20th document, or every 21st where rounding says so.
    assert set(np.diff(places).tolist()) in ({20}, {21}) and places[0] == 0
    # A whole number of documents is passed over: 1 in 20 off at most; the rest is that documents differ in length.
    assert sum(map(len, sample)) == pytest.approx(asked, rel=0.1)


def test_a_large_enough_sample_is_all_that_is_trained_on(tmp_path, monkeypatch):
    texts = made_up_texts(50)
    found = sampled(tmp_path, monkeypatch, 10**9, files=[write_jsonl(tmp_path / "a.jsonl", texts)], heldout_fraction=1e-9)
    assert found == texts


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from pipeline.common.errors import full_disk, is_full_disk
from data_prep.settings import TokenizerConfig
from data_prep.tokenizers.training import train_tokenizer
from tests.data_prep.prose import made_up_texts
from tests.shards import SPECIAL

algorithm, family, folder = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
try:
    train_tokenizer(made_up_texts(200), TokenizerConfig(vocab_size=500, algorithm=algorithm, family=family), Path(folder))
except OSError as error:
    print(is_full_disk(error), full_disk(error))
"""


@pytest.mark.parametrize(
    ("algorithm", "family"), [("sentencepiece_bpe", "roberta"), ("byte_level_bpe", "gpt2"), ("wordpiece", "bert")]
)
def test_a_full_disk_is_no_fault(tmp_path, algorithm, family):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, algorithm, family, tmp_path],
        capture_output=True, text=True, check=True, timeout=120, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout.startswith("True File too large; free disk space")
