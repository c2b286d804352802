"""A server that turns every question away before it answers it, and what is left where a worker was lost meanwhile."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

from replies import Replies
from workplace import Workplace

from llmbench.results.run import Run

RETRIES = {"attempts": 3, "backoff": "fixed", "wait_s": 0.05, "jitter": 0.0}

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


def asks(workplace: Workplace, server: Shy, retries: dict[str, Any] | None = None, **fields: Any) -> str:
    """A workload of six requests to `server`, which are sent again when it refuses them."""
    spec = {
        "model": "m",
        "engines": [{"openai": {"url": server.url, "label": "shy"}}],
        "prompts": {"kind": "text", "path": "prompts.txt", "output_tokens": 1},
        "traffic": {"requests": 6, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 3}},
        "measure": {"retries": {**RETRIES, **(retries or {})}},
    }
    return workplace.workload(**{**spec, **fields})


def asks_at_once(workplace: Workplace, server: Shy, wait_s: float) -> str:
    """All six in the same instant, and each again `wait_s` after its refusal."""
    traffic = {"requests": 6, "warmup_requests": 0, "arrivals": {"kind": "burst"}}
    return asks(workplace, server, {"wait_s": wait_s}, traffic=traffic)


def attempts_of_which_half_were_lost(run: Run, wait_s: float) -> tuple[dict[str, list[Any]], list[int]]:
    """Of a run of `asks_at_once` of which one of two workers was lost while all waited: the columns of its rows, an
    attempt behind the other, and which of them are the lost ones."""
    found = run.requests.sort_by([("index", "ascending"), ("attempt", "ascending")]).to_pydict()
    assert found["attempt"] == [1, 2] * 6
    assert found["error_kind"][::2] == ["rate_limited"] * 6
    lost = [row for row in range(1, 12, 2) if found["error_kind"][row] == "cancelled"]
    assert len(lost) == 3
    assert found["status"].count("ok") == 3
    for row in range(1, 12, 2):
        assert found["due_ns"][row] == found["due_ns"][row - 1]
        assert found["attempt_due_ns"][row] == found["end_ns"][row - 1] + round(wait_s * 1e9)
    assert any("3 of its requests were lost" in reason for reason in run.manifest.invalid)
    return found, lost
