"""A Hugging Face hub on this machine: what huggingface_hub asks of the real one to download a model, and its refusals."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from huggingface_hub import constants


@dataclass
class Hub:
    """The models that it has, and what it was asked for."""

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

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, hub, body=True)

        def do_HEAD(self) -> None:
            _answer(self, hub, body=False)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(monkeypatch, endpoint: str, cache: Path, *, offline: bool = False) -> None:
    """Have huggingface_hub, in this process, ask the hub at `endpoint`, keep files in `cache`, and never wait long."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)


def _answer(request: BaseHTTPRequestHandler, hub: Hub, *, body: bool) -> None:
    words = request.path.partition("?")[0].strip("/").split("/")
    api = words[:2] == ["api", "models"]
    words = words[2:] if api else words
    verb = next(word for word in ("revision", "tree", "resolve") if word in words)
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
        told = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
        return _send(request, 200, json.dumps(told).encode(), {}, body)
    if verb == "tree":
        listed = [
            {"type": "file", "path": file, "size": path.stat().st_size, "oid": _digest(path)} for file, path in files.items()
        ]
        return _send(request, 200, json.dumps(listed).encode(), {}, body)
    if body:
        hub.downloads.append(rest)
    told = {"ETag": f'"{_digest(files[rest])}"', "X-Repo-Commit": commit}
    return _send(request, 200, files[rest].read_bytes(), told, body)


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _send(request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
    request.send_response(status)
    for key, value in (headers | {"Content-Length": str(len(content)), "Content-Type": "application/json"}).items():
        request.send_header(key, value)
    request.end_headers()
    if body:
        request.wfile.write(content)
