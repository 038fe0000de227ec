"""A Hugging Face hub on this machine: what huggingface_hub asks of the real one to download a model, and its refusals."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path, PurePosixPath

from huggingface_hub import constants

from tests.servers import answering, send_head


@dataclass
class Hub:
    """The models and data sets that it has, and what it was asked for."""

    models: dict[str, dict[str, Path]] = field(default_factory=dict)
    """Name -> revision -> the directory with its files."""
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Name -> the status and the code with which it is refused."""
    downloads: list[str] = field(default_factory=list)
    """Files that were sent, in their order."""
    port: int = 0

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def commit(self, name: str, revision: str) -> str | None:
        """The commit of a branch, or of itself."""
        commits = {branch: hashlib.sha1(f"{name} {branch}".encode()).hexdigest() for branch in self.models[name]}
        return commits.get(revision) or (revision if revision in commits.values() else None)

    def files(self, name: str, commit: str) -> dict[str, Path]:
        """The files of a commit."""
        (folder,) = (folder for branch, folder in self.models[name].items() if self.commit(name, branch) == commit)
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer for the hub, on a free port of this machine."""
    with answering(partial(_answer, hub)) as hub.port:
        yield hub


def ask(monkeypatch, endpoint: str, cache: Path, *, offline: bool = False) -> None:
    """Have huggingface_hub, in this process, ask the hub at `endpoint`, keep files in `cache`, and never wait long."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)


def _answer(hub: Hub, request: BaseHTTPRequestHandler, body: bool) -> None:
    words = request.path.partition("?")[0].strip("/").split("/")
    words = words[2:] if words[0] == "api" else words[1:] if words[0] == "datasets" else words
    # Of what is asked for by its name alone the main branch is sent.
    verb = next((word for word in ("revision", "tree", "paths-info", "resolve") if word in words), None)
    words += [] if verb else ["revision", "main"]
    verb = verb or "revision"
    place = words.index(verb)
    name, revision, rest = "/".join(words[:place]), words[place + 1], "/".join(words[place + 2 :])
    if name in hub.refusals:
        status, code = hub.refusals[name]
        return _send(request, status, b"{}", {"X-Error-Code": code} if code else {}, body)
    if name not in hub.models:
        return _send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
    commit = hub.commit(name, revision)
    if commit is None:
        return _send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
    files = hub.files(name, commit)
    if verb == "revision":
        answer = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
        return _send(request, 200, json.dumps(answer).encode(), {}, body)
    if verb in ("tree", "paths-info"):
        listed = [
            {"type": "file", "path": file, "size": path.stat().st_size, "oid": _digest(path)} for file, path in files.items()
        ]
        folders = {parent.as_posix() for file in files for parent in PurePosixPath(file).parents if parent.name}
        listed += [{"type": "directory", "path": folder, "oid": "-"} for folder in sorted(folders)]
        if verb == "tree":
            deep = "recursive=true" in request.path.lower()  # versions of the library differ
            within = [entry for entry in listed if entry["path"].startswith(f"{rest}/" if rest else "")]
            listed = [entry for entry in within if deep or PurePosixPath(entry["path"]).parent == PurePosixPath(rest)]
        else:
            asked = json.loads(request.rfile.read(int(request.headers["Content-Length"])))["paths"]
            listed = [entry for entry in listed if entry["path"] in asked]
        return _send(request, 200, json.dumps(listed).encode(), {}, body)
    if body:
        hub.downloads.append(rest)
    answer = {"ETag": f'"{_digest(files[rest])}"', "X-Repo-Commit": commit}
    content = files[rest].read_bytes()
    if asked := request.headers.get("Range"):
        start, stop = map(int, asked.removeprefix("bytes=").split("-"))
        answer["Content-Range"] = f"bytes {start}-{stop}/{len(content)}"
        return _send(request, 206, content[start : stop + 1], answer, body)
    return _send(request, 200, content, answer, body)


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _send(request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
    send_head(request, status, headers | {"Content-Length": str(len(content)), "Content-Type": "application/json"})
    if body:
        request.wfile.write(content)
