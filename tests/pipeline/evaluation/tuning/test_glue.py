"""GLUE's files, with the quirks that they have as they are spread."""

from pathlib import Path

import datasets
import pytest

from pipeline.common.errors import UserError
from pipeline.evaluation.tuning.examples import Text
from pipeline.evaluation.tuning.glue import GLUE
from tests.pipeline.evaluation.tuning.conftest import SHARED

_MNLI = "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label"
FILES = {
    "sst2": ('sentence\tlabel\nan "open quote \t1\nplain \t0\n', [('an "open quote ', None, 1), ("plain ", None, 0)]),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\t\" He said\tShe ' said\r\n",
        [('" He said', "She ' said", 1)],
    ),
    "cola": ("gj04\t0\t*\tHim is.\nbc01\t1\t\tHe is.\u2028Is he?\n", [("Him is.", None, 0), ("He is.\u2028Is he?", None, 1)]),
    "rte": ("index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n", [("A.", "B.", 1)]),
    "stsb": ("index\tsentence1\tsentence2\tscore\n0\tA.\tB.\t3.800\n", [("A.", "B.", 3.8)]),
    "qnli": ("index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tentailment\n", [("Who?", "He.", 0)]),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWho?\tWhom?\t1\n1\t3\t4\tbroken\n",
        [("Who?", "Whom?", 1)],
    ),
    "mnli": (f"{_MNLI}\n0\t1\t1n\tfiction\tA.\tB.\tneutral\tcontradiction\n", [("A.", "B.", 2)]),
}


def write(data: Path, task: str, text: str) -> None:
    folder = data / GLUE[task].folder
    folder.mkdir(parents=True)
    for stem in ("train", *(stem for _, stem in GLUE[task].dev)):
        (folder / f"{stem}.tsv").write_bytes(text.encode())


@pytest.mark.parametrize("task", GLUE)
def test_a_file_is_read_as_glue_spreads_it(task, tmp_path):
    text, expected = FILES[task]
    write(tmp_path / "glue", task, text)
    data = GLUE[task].read([tmp_path])
    assert list(data.train) == [Text(*row) for row in expected]
    assert [list(part) for part in data.dev.values()] == [list(data.train)] * len(GLUE[task].dev)
    assert data.source.startswith(f"{GLUE[task].folder}/train.tsv")


def test_the_two_parts_of_mnli_are_told_apart(tmp_path):
    write(tmp_path, "mnli", FILES["mnli"][0])
    (tmp_path / "MNLI" / "dev_mismatched.tsv").write_text(f"{_MNLI}\n0\t1\t1n\tfiction\tC.\tD.\tneutral\tneutral\n")
    data = GLUE["mnli"].read([tmp_path])
    assert data.dev == {"_matched": [Text("A.", "B.", 2)], "_mismatched": [Text("C.", "D.", 1)]}
    (tmp_path / "MNLI" / "dev_matched.tsv").unlink()
    with pytest.raises(UserError, match=r"MNLI: dev_matched\.tsv is not there"):
        GLUE["mnli"].read([tmp_path])


def test_broken_lines_of_qqp_are_counted(tmp_path):
    write(tmp_path, "qqp", FILES["qqp"][0])
    assert "1 lines of train.tsv with too few columns left out" in GLUE["qqp"].read([tmp_path]).description["note"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no examples"),
        ("sentence\tlabel\n", "holds no examples"),
        ("sentence\tscore\nfine\t1\n", "line 1 names no column 'label'"),
        ("sentence\tlabel\nfine\t1\n\nfine\t\n", "line 4 has no label"),
        ("sentence\tlabel\nfine\t1\nfine\t2\n", r"line 3 has no label \('2'\); use one of 0, 1"),
        ("sentence\tlabel\nfine\t1\nfine\n", "line 3 has 1 columns of 2"),
        ("sentence\tlabel\nf\u00fcr\t1\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_line(text, sentence, tmp_path):
    write(tmp_path, "sst2", FILES["sst2"][0])
    path = tmp_path / "SST-2" / "dev.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=sentence) as refused:
        GLUE["sst2"].read([tmp_path])
    assert str(path) in str(refused.value)


def test_a_score_that_is_no_number_is_refused_by_its_line(tmp_path):
    write(tmp_path, "stsb", FILES["stsb"][0] + "1\tA.\tB.\tmuch\n")
    with pytest.raises(UserError, match=r"line 3 has no label \('much'\)"):
        GLUE["stsb"].read([tmp_path])


def test_where_one_part_is_missing_the_other_is_split_once_and_for_all(tmp_path):
    write(tmp_path, "sst2", "sentence\tlabel\n" + "".join(f"text {n}\t{n % 2}\n" for n in range(50)))
    (tmp_path / "SST-2" / "train.tsv").unlink()
    data, again = (GLUE["sst2"].read([tmp_path]) for _ in range(2))
    assert data == again
    assert len(data.train) == 40
    assert sorted([*data.train, *data.dev[""]]) == sorted(Text(f"text {n}", None, n % 2) for n in range(50))
    assert data.description["note"] == "train part: 80% of the lines of dev.tsv, scored are the others"


def test_fewer_examples_are_the_same_ones_each_time(tmp_path):
    write(tmp_path, "sst2", "sentence\tlabel\n" + "".join(f"text {n}\t{n % 2}\n" for n in range(50)))
    data = GLUE["sst2"].read([tmp_path])
    limited = data.limited(20, 10)
    assert limited == data.limited(20, 10)
    assert (len(set(limited.train)), len(set(limited.dev[""]))) == (20, 10)
    assert limited.description["examples"] == 10
    assert limited.description["note"] == "20 of 50 training examples; 10 of 50 development examples"


def test_without_files_the_hub_is_asked_by_name(tmp_path, monkeypatch):
    rows = {"premise": ["A."], "hypothesis": ["B."], "label": [2], "idx": [0]}
    parts = {split: datasets.Dataset.from_dict(rows) for split in ("train", "validation_matched", "validation_mismatched")}
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *name: asked.append(name) or datasets.DatasetDict(parts))
    data = GLUE["mnli"].read([tmp_path])
    assert asked == [("nyu-mll/glue", "mnli")]
    assert data.train == [Text("A.", "B.", 2)]
    assert data.dev == {"_matched": data.train, "_mismatched": data.train}
    assert data.source == "nyu-mll/glue/mnli"


def test_without_files_and_hub_both_are_named(tmp_path, monkeypatch):
    def unreachable(*_):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        UserError, match=r"SST-2/train\.tsv and dev\.tsv are not there .*nyu-mll/glue/sst2 is out of reach .*no route"
    ):
        GLUE["sst2"].read([tmp_path])


@pytest.mark.skipif(not (SHARED / "glue").is_dir(), reason=f"{SHARED / 'glue'} is not there")
@pytest.mark.parametrize(
    ("task", "train", "dev", "labels"),
    [
        ("sst2", 67349, 872, {0, 1}),
        ("mrpc", 3667, 408, {0, 1}),
        ("cola", 8551, 1043, {0, 1}),
        ("rte", 2490, 277, {0, 1}),
        ("stsb", 5749, 1500, None),
    ],
)
def test_glues_own_files_are_read_whole(task, train, dev, labels):
    data = GLUE[task].read([SHARED])
    assert (len(data.train), len(data.dev[""])) == (train, dev)
    found = {text.label for text in data.train}
    assert found == labels if labels else (min(found), max(found)) == (0, 5)
