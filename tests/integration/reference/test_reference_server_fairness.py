"""Users who compete for a server that serves the user first who was served least."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from stream_clients import Caller, Grpc
from wsproto.events import TextMessage

from llmbench.reference_engine import server as server_package

OVERTAKINGS = "llmbench:fairness_overtakings_total"
BODY = {"model": "tiny", "prompt": "Words", "max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(70) as threads:
        yield threads


def flood(server: Any, pool: ThreadPoolExecutor, num_requests: int, ended: list[str]) -> list[Future[None]]:
    """So many requests at once, all of one user; when it returns, all have arrived, and most wait for two seats."""

    def ask() -> None:
        assert server.ask("/v1/completions", {**BODY, "max_tokens": 60, "user": "flood"}).status == 200
        ended.append("flood")

    asked = [pool.submit(ask) for _ in range(num_requests)]
    num_there = 0.0
    while num_there < num_requests:
        time.sleep(0.01)
        num_there = len(ended) + sum(server.gauge(f"vllm:num_requests_{state}") for state in ("running", "waiting"))
    return asked


@pytest.mark.parametrize("policy", ["vtc", "fcfs"])
def test_who_sends_little_does_not_wait_for_a_flood(start_server, tiny_model, pool, policy: str) -> None:
    server = start_server(tiny_model, "--max-num-seqs", "2", "--fairness", policy)
    ended: list[str] = []
    asked = flood(server, pool, 64, ended)
    num_ended = len(ended)
    for _ in range(3):
        server.ask("/v1/completions", {**BODY, "user": "few"})
        ended.append("few")
    for each in asked:
        each.result()
    last = max(place for place, user in enumerate(ended) if user == "few")
    # Each of the three waits for a seat, while few others end; or else for nearly all of the flood.
    assert last - num_ended < 24 if policy == "vtc" else ended.index("few") >= 50
    # One user's requests go in order of arrival, and three times another's went first.
    assert server.gauge(OVERTAKINGS) == (3 if policy == "vtc" else 0)
    server.stop()


@pytest.fixture(scope="module")
def server(start_server, tiny_model) -> Any:
    return start_server(tiny_model, "--max-num-seqs", "2", "--fairness", "vtc", "--grpc-port", "0")


def by_http(server: Any, user: str | None) -> None:
    assert server.ask("/v1/completions", {**BODY, "user": user}).status == 200


def by_beams(server: Any, user: str | None) -> None:
    assert server.ask("/v1/completions", {**BODY, "user": user, "use_beam_search": True, "n": 2}).status == 200


def by_chat(server: Any, user: str | None) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 4, "user": user}
    assert server.ask("/v1/chat/completions", body).status == 200


def by_websocket(server: Any, user: str | None) -> None:
    caller = Caller(server.url, "/v1/completions")
    caller.say(TextMessage(data=json.dumps({**BODY, "user": user})))
    assert len(list(caller.messages())) == 1
    assert caller.code == 1000


def by_grpc(server: Any, user: str | None) -> None:
    port = server.log.split("serving gRPC on port ")[1].split()[0]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        client = Grpc(channel, Path(server_package.__file__).with_name("generation.binpb").read_bytes())
        named = {} if user is None else {"user": user}
        replies = list(client.generate(client.message(model="tiny", prompt="Words", max_tokens=4, **named)))
        assert replies[-1].finish_reason


@pytest.mark.parametrize("ask", [by_http, by_beams, by_chat, by_websocket, by_grpc])
@pytest.mark.parametrize("user", ["few", None])
def test_a_user_is_known_by_every_door(server, pool, ask: Callable[[Any, str | None], None], user: str | None) -> None:
    """Who names no user is one too, and not the flood's."""
    before = server.gauge(OVERTAKINGS)
    ended: list[str] = []
    asked = flood(server, pool, 20, ended)
    ask(server, user)
    assert len(ended) < 18
    for each in asked:
        each.result()
    assert server.gauge(OVERTAKINGS) > before


def test_grpc_refuses_a_name_that_is_too_long(server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        by_grpc(server, "u" * 257)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 256 characters" in caught.value.details()
