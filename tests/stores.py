"""Stores on this machine: a web server with the manners of several, and moto's S3."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler

from tests.servers import answering, send_head

S3_SECRET = "5ecre7-0f-th3-bucke7"
"""What the tests of a bucket sign with; found in no file."""


@dataclass
class Web:
    """A web server's files, and how it answers for them."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    tags: bool = True
    """Whether it sends ETag."""
    refusals: dict[str, int] = field(default_factory=dict)
    """File -> the status with which it is refused."""
    breaks: Counter[str] = field(default_factory=Counter)
    """File -> how many of the next answers break off half-way."""
    short: Counter[str] = field(default_factory=Counter)
    """File -> how many of the next answers are half of the range that was asked for, and say so."""
    sent: Counter[str] = field(default_factory=Counter)
    """File -> bytes of it that were sent."""
    port: int = 0

    def url(self, name: str) -> str:
        """A file's address."""
        return f"http://127.0.0.1:{self.port}/{name}"


@contextmanager
def serving(web: Web) -> Iterator[Web]:
    """Answer on a free port of this machine."""
    with answering(partial(_answer, web)) as web.port:
        yield web


def _answer(web: Web, request: BaseHTTPRequestHandler, body: bool) -> None:
    name = request.path.strip("/")
    status = web.refusals.get(name, 200 if name in web.files else 404)
    content = web.files.get(name, b"") if status == 200 else b""
    headers = {"ETag": f'"{hash(content)}"'} if web.tags and status == 200 else {}
    asked = request.headers.get("Range")
    if body and status == 200 and web.ranges and asked:
        start, stop = asked.removeprefix("bytes=").split("-")
        status, size = 206, len(content)
        headers["Content-Range"] = f"bytes {start}-{min(int(stop), size - 1)}/{size}"
        content = content[int(start) : int(stop) + 1]
        if web.short[name] > 0:
            web.short[name] -= 1
            content = content[: len(content) // 2]
    send_head(request, status, headers | {"Content-Length": str(len(content))})
    if body:
        if web.breaks[name] > 0:
            web.breaks[name] -= 1
            content = content[: len(content) // 2]
            request.close_connection = True
        try:
            request.wfile.write(content)
            web.sent[name] += len(content)
        except OSError:
            # Whoever asked has had enough.
            request.close_connection = True


@contextmanager
def s3_server() -> Iterator[str]:
    """moto's S3 on a free port of this machine: its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
