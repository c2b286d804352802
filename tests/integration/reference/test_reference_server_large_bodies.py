"""Bodies as large as may be: whoever sends one gets a sentence, and nobody else waits for it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import psutil
import pytest

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
CODE = "a b = foo(x); " * 600_000  # 8 of the 16 MiB that a body may have
UNKNOWN = {f"k{number}": 1 for number in range(800_000)}
MANY = 1_000_000
USER = {"role": "user", "content": "a"}

BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"prompt": CODE}, "The context length is 512"),
    "chat": ({"messages": [{"role": "user", "content": CODE}]}, "The context length is 512"),
    "many prompts": ({"prompt": ["a"] * MANY}, "at most 1056 together"),
    "wrong prompts": ({"prompt": [-1] * MANY}, "must be a text"),
    "many prompts of ids": ({"prompt": [[1]] * 600_000}, "at most 16384 entries"),
    "a prompt of many ids": ({"prompt": [1] * MANY}, "The context length is 512"),
    "many messages": ({"messages": [USER] * 400_000}, "at most 16384 entries"),
    "wrong messages": ({"messages": [1] * 16_000}, "'messages.0'"),
    "wrong stop tokens": ({"prompt": "a", "stop_token_ids": [-1] * 16_000}, "greater than or equal to 0"),
    "many stop tokens": ({"prompt": "a", "stop_token_ids": [1] * MANY}, "at most 16384 entries"),
    "unknown names": ({"prompt": "a", **UNKNOWN}, "'k0' is not supported"),
    "unknown names in a message": ({"messages": [{**USER, **UNKNOWN}]}, "'messages.0.k0' is not supported"),
    "unknown names in a form": ({"prompt": "a", "response_format": {"type": "text", **UNKNOWN}}, "at most 16384"),
    "wrong biases": ({"prompt": "a", "logit_bias": UNKNOWN}, "at most 16384 entries"),
}


class Watch:
    """Asks for /health all the time; `worst_s` is the longest that it took."""

    def __init__(self, server: Any) -> None:
        self.worst_s = 0.0
        self._server = server
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.02):
            begin = time.perf_counter()
            assert self._server.ask("/health").status == 200
            self.worst_s = max(self.worst_s, time.perf_counter() - begin)


@pytest.mark.parametrize("name", BODIES)
def test_nobody_waits_for_a_body_that_is_refused(server, name: str) -> None:
    fields, says = BODIES[name]
    body = json.dumps({"model": "tiny", "max_tokens": 1, **fields}).encode()
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    reply = server.ask(CHAT if "messages" in fields else COMPLETIONS, body)
    after = process.cpu_times()
    assert reply.status == 400, reply.body
    assert says in reply.json()["error"]["message"]
    # Nearly all of it in the event loop. Of the processor: others may be at work on this machine.
    taken_s = after.user + after.system - before.user - before.system
    assert taken_s < 1.5


def test_nobody_waits_for_prompts_that_are_tokenised(server) -> None:
    """As many as the server has room for, and each as long as one may be that fits."""
    prompt = "a b = foo(x); " * 200
    with Watch(server) as watch:
        begin = time.perf_counter()
        reply = server.ask(COMPLETIONS, {"model": "tiny", "prompt": [prompt] * 1000, "max_tokens": 1})
        taken_s = time.perf_counter() - begin
    assert reply.status == 400
    assert "The context length is 512" in reply.json()["error"]["message"]
    assert watch.worst_s < taken_s / 2


def test_more_answers_than_there_is_ever_room_for_are_not_told_to_come_back(server) -> None:
    for body in ({"prompt": ["a"] * 1057}, {"prompt": ["a"] * 67, "n": 16}, {"prompt": [[5]] * 1057}):
        reply = server.ask(COMPLETIONS, {"model": "tiny", "max_tokens": 1, **body})
        assert reply.status == 400
        assert "retry-after" not in reply.headers
        assert "at most 1056 together" in reply.json()["error"]["message"]


def test_thousands_of_stop_tokens_and_biases_are_those_of_a_few(server) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 8, "temperature": 0, "return_token_ids": True}
    free = server.ask(COMPLETIONS, body).json()["choices"][0]["token_ids"]
    stop = free[4]
    few = server.ask(COMPLETIONS, {**body, "stop_token_ids": [stop], "min_tokens": 3}).json()["choices"]
    many = server.ask(COMPLETIONS, {**body, "stop_token_ids": [stop] * 16_000, "min_tokens": 3}).json()["choices"]
    assert many == few
    biased = server.ask(
        COMPLETIONS, {**body, "logit_bias": {str(token): -50 for token in range(1024) if token != stop}}
    )
    assert biased.json()["choices"][0]["token_ids"] == [stop] * 8
