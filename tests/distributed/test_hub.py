"""A name on the Hugging Face hub as a run's source, on several ranks."""

import pytest

from pipeline.recipe import load_recipe
from pipeline.training.preparation.given_source import downloaded
from tests.end_to_end.conftest import ROOT
from tests.hub import Hub, ask, serving
from tests.ranks import run_ranks


def fetch(endpoint, cache):
    recipe = load_recipe(
        ROOT / "launch" / "recipes" / "quickstart.yaml",
        ["source.model=null", "source.steps=null", "source.path=someone/small"],
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        ask(monkeypatch, endpoint, cache)
        return downloaded(recipe)


def test_a_source_is_downloaded_once_for_all_ranks_of_a_node(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).write_text(name)
    with serving(Hub({"someone/small": {"main": model}})) as hub:
        first, second = run_ranks(fetch, 2, hub.endpoint, tmp_path / "cache")
    assert first == second and first.name == hub.commit("someone/small", "main")
    assert sorted(hub.downloads) == ["config.json", "model.safetensors", "tokenizer.json"]
