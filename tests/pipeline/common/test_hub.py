"""Names on the Hugging Face hub: downloaded once, found offline, and each reason for having none named."""

import re
from pathlib import Path

import pytest

from data_prep.prepare import prepare
from data_prep.settings import DataPrepConfig, TokenizerConfig
from pipeline.common.errors import UserError
from pipeline.common.hub import commit_of, find_directory, hub_remarks
from tests.hub import Hub, ask, serving

ABSENT = "source.path: no directory here"


def repository(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} of {folder.name}")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with a model of safetensors, one of PyTorch's own files, and several that it refuses."""
    everything = (
        "config.json",
        "tokenizer.json",
        "merges.txt",
        "spiece.model",
        "chat_template.jinja",
        "model.safetensors",
        "pytorch_model.bin",
        "tf_model.h5",
        "consolidated.safetensors",
        "onnx/model.onnx",
        "onnx/model.safetensors",
        "modeling_own.py",
    )
    monkeypatch.chdir(tmp_path)
    models = {
        "someone/small": {
            "main": repository(tmp_path / "main", *everything),
            "step-9": repository(tmp_path / "step-9", "config.json", "model.safetensors"),
        },
        "gpt2": {
            "main": repository(
                tmp_path / "old",
                "config.json",
                "pytorch_model.bin.index.json",
                "pytorch_model-00001-of-00002.bin",
                "pytorch_model-00002-of-00002.bin",
                "rust_model.ot",
            )
        },
        "someone/sharded": {
            "main": repository(
                tmp_path / "sharded", "model.safetensors.index.json", "model-00001-of-00001.safetensors", "pytorch_model.bin"
            )
        },
    }
    with serving(Hub(models)) as hub:
        ask(monkeypatch, hub.endpoint, tmp_path / "cache")
        yield hub


def find(name, revision=None, weights=True):
    return find_directory(name, revision, ABSENT, weights=weights)


def files(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


DESCRIPTION = ["chat_template.jinja", "config.json", "merges.txt", "spiece.model", "tokenizer.json"]


def test_a_model_comes_with_its_tokenizer_in_one_format_and_no_code(hub):
    found = find("someone/small")
    assert files(found) == sorted([*DESCRIPTION, "model.safetensors"])
    assert (found / "config.json").read_text() == "config.json of main"
    assert commit_of(found) == hub.commit("someone/small", "main")
    assert hub_remarks(found) == (f"the Hugging Face hub's someone/small at commit {commit_of(found)}",)


def test_without_safetensors_it_is_pytorchs_own_files(hub):
    assert "pytorch_model-00002-of-00002.bin" in files(find("gpt2"))
    assert files(find("someone/sharded")) == ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]


def test_a_tokenizer_comes_without_weights(hub):
    assert files(find("someone/small", weights=False)) == DESCRIPTION


def test_it_is_downloaded_once(hub):
    found = find("someone/small")
    sent = list(hub.downloads)
    assert len(sent) == len(set(sent)) == 6
    assert find("someone/small") == found
    # Another rank goes by the commit.
    assert find("someone/small", commit_of(found)) == found
    assert hub.downloads == sent


def test_a_revision_is_a_branch_or_a_commit(hub):
    found = find("someone/small", "step-9")
    assert (found / "config.json").read_text() == "config.json of step-9"
    assert find("someone/small", hub.commit("someone/small", "step-9")) == found
    assert find("someone/small") != found


def test_a_snapshot_named_as_a_directory_is_its_own_commit(tmp_path):
    """Ranks ask a second time, by the commit of what the first one found."""
    snapshot = tmp_path / "models--someone--small" / "snapshots" / "0a1b2c"
    snapshot.mkdir(parents=True)
    assert find(str(snapshot)) == find(str(snapshot), "0a1b2c") == snapshot
    with pytest.raises(UserError, match="so it has no revision 'main'"):
        find(str(snapshot), "main")


@pytest.mark.parametrize("name", ["gpt2", "someone/small"])
def test_a_local_path_of_the_name_wins(hub, tmp_path, name):
    (tmp_path / name).mkdir(parents=True)
    assert find(name).absolute() == tmp_path / name
    assert not hub.downloads
    assert commit_of(find(name)) is None and hub_remarks(find(name)) == ()
    with pytest.raises(UserError, match="is no name on the Hugging Face hub, so it has no revision 'main'; leave that out"):
        find(name, "main")


@pytest.mark.parametrize("name", ["/nowhere", "../there", "./x", "~/x", "a/b/c", "runs/", "", "-x", "a b"])
def test_a_path_that_is_no_name_is_never_looked_for(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    ask(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    assert find(name) == Path(name)


# --- offline --------------------------------------------------------------------------------------


@pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "no network"])
@pytest.mark.parametrize(("name", "revision"), [("someone/small", None), ("someone/small", "step-9"), ("gpt2", None)])
def test_what_was_downloaded_is_found_without_a_network(hub, tmp_path, monkeypatch, name, revision, offline):
    found = find(name, revision)
    ask(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", offline=offline)
    assert find(name, revision) == found
    assert find(name, commit_of(found)) == found


def refused(name, revision=None) -> str:
    with pytest.raises(UserError) as error:
        find(name, revision)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{ABSENT}; on the Hugging Face hub, ")
    return message


def test_offline_is_told_from_not_found(hub, tmp_path, monkeypatch):
    cache = re.escape(str(tmp_path / "cache"))
    find("someone/small", weights=False)
    ask(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", offline=True)
    assert re.search(rf"HF_HUB_OFFLINE is set, and gpt2 is not in {cache}: unset it, or download it", refused("gpt2"))
    assert re.search(r"and someone/small at revision 'step-9' is not in", refused("someone/small", "step-9"))
    assert re.search(rf"only a part of it is in {cache}: download it .*hf download someone/small", refused("someone/small"))
    ask(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    # At once, by a branch or a commit.
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waited for {seconds} s"))
    for revision in (None, "0" * 40):
        message = refused("gpt2", revision)
        assert re.search(r"since http://127\.0\.0\.1:9 cannot be reached \(ConnectError.*gpt2 .*is not in", message)


# --- refused --------------------------------------------------------------------------------------

REFUSALS = {
    "not found": (404, "RepoNotFound", "there is no someone/other, or it is private: check its spelling, or log in"),
    "not found, without an account": (401, "RepoNotFound", "there is no someone/other, or it is private"),
    "gated": (403, "GatedRepo", "someone/other is gated: accept its terms at .*/someone/other, then log in"),
    "gated, without an account": (401, "GatedRepo", "someone/other is gated: accept its terms at "),
    "no permission": (403, "", r"someone/other is not given to this account \(403\): ask its owner for permission, or log in"),
    "broken": (500, "", "answers 500 for someone/other: try again later"),
    "busy": (429, "", "answers 429 for someone/other: try again later"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_each_refusal_says_what_to_do(hub, monkeypatch, kind):
    status, code, message = REFUSALS[kind]
    # Retries are not what is tested.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.refusals["someone/other"] = (status, code)
    assert re.search(message, refused("someone/other"))


def test_an_unknown_revision_is_named(hub):
    assert re.search(
        "someone/small has no revision 'none': .*/someone/small/commits lists them", refused("someone/small", "none")
    )


# --- tokenizers -----------------------------------------------------------------------------------


def test_a_tokenizer_of_the_hub_prepares_the_shards_that_its_directory_does(corpus, prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def shards(**tokenizer):
        request = {
            "output_dir": str(tmp_path / "data"),
            "corpora": [{"files": [str(corpus)], "heldout_fraction": 0.1}],
            "tokenizer": tokenizer,
        }
        return prepare(DataPrepConfig.model_validate(request))

    tokenizer = prepared.directory / "tokenizer"
    with serving(Hub({"someone/tokenizer": {"main": tokenizer}})) as hub:
        ask(monkeypatch, hub.endpoint, tmp_path / "cache")
        with pytest.raises(
            UserError, match=r"tokenizer\.path: 'someone/tokenizer' is no directory here; .* no revision 'none'"
        ):
            shards(path="someone/tokenizer", revision="none")
        by_name = shards(path="someone/tokenizer")
        assert sorted(hub.downloads) == sorted(path.name for path in tokenizer.iterdir())
    # Of equal input, which the tokenizer's files are and its place is not, the folder is one.
    assert shards(path=str(tokenizer)).directory == by_name.directory
    for file in tokenizer.iterdir():
        assert (by_name.directory / "tokenizer" / file.name).read_bytes() == file.read_bytes()


def test_a_revision_without_a_name_is_refused():
    with pytest.raises(ValueError, match="`revision` is of what `path` names on the Hugging Face hub; leave it out"):
        TokenizerConfig(vocab_size=300, revision="main")
