"""Web servers on a free port of this machine."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler, bool], None]) -> Iterator[int]:
    """Answer every request by a function, which is also told whether a body is asked for; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, True)

        def do_POST(self) -> None:
            answer(self, True)

        def do_HEAD(self) -> None:
            answer(self, False)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send_head(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str]) -> None:
    """Send a status and headers."""
    request.send_response(status)
    for key, value in headers.items():
        request.send_header(key, value)
    request.end_headers()
