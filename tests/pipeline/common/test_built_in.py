"""The project's own files by their names."""

from pathlib import Path

from pipeline.common.built_in import BUILT_IN, find_file, names_in

NAME = "launch/recipes/nai.yaml"


def test_a_file_of_the_working_directory_comes_before_the_projects_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file(NAME) == BUILT_IN / NAME and find_file("launch/recipes/none.yaml") == Path("launch/recipes/none.yaml")
    (tmp_path / NAME).parent.mkdir(parents=True)
    (tmp_path / NAME).touch()
    assert find_file(NAME) == Path(NAME)


def test_all_that_may_be_named_is_there():
    root = BUILT_IN.parents[1]
    for folder in ("ds_configs", "launch/recipes", "launch/suites", "data_prep/configs"):
        assert names_in(folder) == sorted(str(path.relative_to(root)) for path in (root / folder).rglob("*.*"))
