"""A server that turns every question away before it answers it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

from replies import Replies

_TOKEN = {"choices": [{"text": "a", "index": 0, "finish_reason": "length"}]}
_USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
_EVENTS = (json.dumps(_TOKEN), json.dumps(_USAGE), "[DONE]")


class Shy(ThreadingHTTPServer):
    """Refuses each question `num_refusals` times with 429, and answers it with one token then."""

    def __init__(self, num_refusals: int, retry_after: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.num_refusals, self.retry_after = num_refusals, retry_after
        self.asked: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def shy_server(num_refusals: int, retry_after: str = "0") -> Iterator[Shy]:
    server = Shy(num_refusals, retry_after)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(Replies):
    server: Shy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply(200, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = json.dumps(body.get("prompt") or body.get("messages"))
        self.server.asked[question] += 1
        if self.server.asked[question] <= self.server.num_refusals:
            self.reply(429, b'{"error": {"message": "slow down"}}', retry_after=self.server.retry_after)
        else:
            self.reply(200, b"".join(f"data: {event}\n\n".encode() for event in _EVENTS))
