import subprocess
import sys
from collections import Counter
from contextlib import suppress
from importlib.metadata import version

import psutil
import pytest

from data_prep.text import python_docs
from data_prep.text.python_docs import MIN_CHARACTERS, docstrings, is_prose, read_python_docs


def test_docstrings_are_read_without_importing(tmp_path):
    path = tmp_path / "module.py"
    path.write_text('"""Module."""\nraise SystemExit\nclass A:\n    """Class."""\n    def f(self):\n        """Method."""\n')
    assert docstrings(path) == ["Module.", "Class.", "Method."]


def test_the_corpus_is_the_environments_own_whatever_else_was_imported(tmp_path, monkeypatch):
    before = python_docs.identity()
    assert "numpy==" in before
    # As setuptools does with the packages that it carries.
    (tmp_path / "carried-1.0.dist-info").mkdir()
    (tmp_path / "carried-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert version("carried") == "1.0" and python_docs.identity() == before


def test_a_file_that_is_no_python_has_no_docstrings(tmp_path):
    path = tmp_path / "module.py"
    path.write_bytes(b"def (:\n\x00")
    assert docstrings(path) == []


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("Return the number of items in the list, or raise an error where the list is empty and none was given.", True),
        (">>> f(1, 2)\n3\n>>> g([4, 5], {6: 7})\n[8, 9]\n" * 4, False),
        ("+----+----+----+\n| 01 | 02 | 03 |\n+----+----+----+\n" * 4, False),
        ("Too few words", False),
    ],
)
def test_prose_differs_from_tables_and_listings(text, prose):
    assert is_prose(text) is prose


@pytest.fixture(scope="module", params=[16, pytest.param(1, marks=pytest.mark.full)], ids=["of one file in 16", "of all files"])
def corpus(request) -> tuple[list[str], Counter[str], int]:
    """The texts, what was dropped, and of one in how many files of the packages they are: parsing them takes a minute."""
    thinned, every, dropped = request.param, python_docs._python_files, Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            python_docs, "_python_files", lambda root: list(every(root))[:: thinned if root.name == "site-packages" else 1]
        )
        return list(read_python_docs(dropped)), dropped, thinned


@pytest.mark.slow
def test_the_corpus_is_large_clean_and_free_of_repeats(corpus):
    texts, dropped, thinned = corpus
    assert sum(len(text.encode("utf-8", "replace")) for text in texts) >= (10_000_000 if thinned == 1 else 3_000_000)
    assert len(set(texts)) == len(texts)
    assert min(len(text) for text in texts) >= MIN_CHARACTERS
    assert all(dropped[reason] > 0 for reason in ("too short", "not prose", "repeated"))


def test_the_corpus_holds_its_three_sources(corpus):
    texts = corpus[0]
    assert any("Return a list of the words in the string" in text for text in texts)  # str.split, from pydoc_data
    assert any("heap" in text and "priority" in text for text in texts)  # heapq, from the standard library
    assert any("PyTorch is a Python package that provides" in text for text in texts)  # a package's own description


READING = """
from collections import Counter
from data_prep.text.python_docs import read_python_docs
if __name__ == "__main__":
    texts = read_python_docs(Counter())
    next(texts)
    print("reading", flush=True)
    for _ in texts:
        pass
"""


def test_a_reader_that_is_killed_leaves_no_worker_behind(tmp_path):
    script = tmp_path / "reading.py"
    script.write_text(READING)
    reader = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    workers: list[psutil.Process] = []
    try:
        assert reader.stdout.readline() == "reading\n"
        workers = psutil.Process(reader.pid).children(recursive=True)
        assert len(workers) > 1
        reader.kill()
        _, left = psutil.wait_procs(workers, timeout=60)
        assert not left
    finally:
        reader.kill()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        reader.communicate()
