"""One table: every kind of failure, produced by a server on loopback, and the row it lands in."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from llmbench.engines.openai import OpenAIAdapter
from llmbench.engines.wire import Endpoint, FailureKind, GenerationRequest
from llmbench.harness.loadgen import StopFlag
from llmbench.harness.plan import PlannedRequest, Trial
from llmbench.harness.records import to_records
from llmbench.results.records import RequestRecord
from llmbench.workloads.arrivals import BurstArrivals
from llmbench.workloads.spec import EngineSpec, TimeoutSpec

pytestmark = pytest.mark.usefixtures("each_reader")

TOKEN = b'data: {"choices":[{"text":"a","index":0}]}\n\n'
LAST = b'data: {"choices":[{"text":"b","index":0,"finish_reason":"length"}]}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"out of memory"}}\n\n'
PATIENT = TimeoutSpec(connect_s=60, first_token_s=60, idle_s=60, total_s=100)
REQUEST = GenerationRequest("r", "m", max_tokens=2, prompt="hello")


def take(peer: Any) -> None:
    """Read one request with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += peer.socket.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += peer.socket.recv(65536)


def stream(*events: bytes, end: bool = True, then: Callable[[Any], None] | None = None) -> Callable[[Any], None]:
    """A server that streams `events`, does `then`, and ends the answer properly or just hangs up."""

    def play(peer: Any) -> None:
        take(peer)
        peer.head()
        for event in events:
            peer.chunk(event)
        if then is not None:
            then(peer)
        if end:
            peer.end()

    return play


def whole(status: str, body: object, *headers: str) -> Callable[[Any], None]:
    """A server that answers in one piece, of JSON unless `body` is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(content)}", *headers]

    def play(peer: Any) -> None:
        take(peer)
        peer.send("\r\n".join(fields).encode() + b"\r\n\r\n" + content)

    return play


def hang(peer: Any) -> None:
    peer.wait(60)


def drip(peer: Any) -> None:
    while not peer.server.closing.is_set():
        peer.chunk(TOKEN)
        peer.wait(0.02)


@dataclass(frozen=True)
class Case:
    """A bad day of one server, and part of the sentence that its row says about it.

    `endpoint` is where the request goes: None is the server that follows `script`.
    """

    kind: FailureKind
    name: str
    says: str
    script: Callable[[Any], None] = hang
    endpoint: Endpoint | None = None
    timeouts: TimeoutSpec = PATIENT
    tls: bool = False
    tokens: int | None = None


def given(**timeouts: float) -> TimeoutSpec:
    return TimeoutSpec.model_validate({**PATIENT.model_dump(), **timeouts})


NOT_FOUND = Endpoint("no-such-host.invalid", 80)
CASES = (
    Case(FailureKind.DNS, "name", "no-such-host.invalid could not be resolved", endpoint=NOT_FOUND),
    Case(FailureKind.CONNECT, "refused", "Connection refused", endpoint=Endpoint("127.0.0.1", 0)),
    Case(FailureKind.CONNECT, "no-socket", "No such file", endpoint=Endpoint("localhost", 80, unix_path="/no/e.sock")),
    Case(FailureKind.CONNECT_TIMEOUT, "never-accepts", "0.3 s", timeouts=given(connect_s=0.3)),
    Case(
        FailureKind.TLS, "plain-server", "TLS handshake", lambda peer: peer.send(b"HTTP/1.1 400 No\r\n\r\n"), tls=True
    ),
    Case(FailureKind.TLS, "hangs-up", "TLS handshake", lambda peer: None, tls=True),
    Case(FailureKind.FIRST_TOKEN_TIMEOUT, "silent", "0.3 s", timeouts=given(first_token_s=0.3)),
    Case(FailureKind.FIRST_TOKEN_TIMEOUT, "head-only", "0.3 s", stream(then=hang), timeouts=given(first_token_s=0.3)),
    Case(FailureKind.IDLE_TIMEOUT, "stalls", "0.3 s", stream(TOKEN, then=hang), timeouts=given(idle_s=0.3), tokens=1),
    Case(FailureKind.TOTAL_TIMEOUT, "drips", "0.5 s", stream(then=drip), timeouts=given(total_s=0.5)),
    Case(FailureKind.HTTP_STATUS, "503", "HTTP 503: no room", whole("503 Busy", {"error": {"message": "no room"}})),
    Case(FailureKind.HTTP_STATUS, "404-in-html", "HTTP 404: <p>", whole("404 Not Found", b"<p>nothing here</p>")),
    Case(FailureKind.HTTP_STATUS, "redirect", "HTTP 307", whole("307 Elsewhere", b"", "Location: /elsewhere")),
    Case(FailureKind.RATE_LIMITED, "429", "(Retry-After: 7)", whole("429 Too Many", {}, "Retry-After: 7")),
    Case(FailureKind.SERVER_ERROR, "event", "out of memory", stream(TOKEN, ERROR, DONE), tokens=1),
    Case(FailureKind.SERVER_ERROR, "event-then-cut", "out of memory", stream(TOKEN, ERROR, end=False), tokens=1),
    Case(FailureKind.SERVER_ERROR, "200-with-error-body", "no such model", whole("200 OK", {"error": "no such model"})),
    Case(FailureKind.TRUNCATED, "no-event", "without one event", stream()),
    Case(FailureKind.TRUNCATED, "no-end-marker", "without its end marker [DONE]", stream(TOKEN, LAST), tokens=2),
    Case(FailureKind.TRUNCATED, "cut", "closed the connection", stream(TOKEN, end=False), tokens=1),
    Case(
        FailureKind.TRUNCATED, "cut-in-an-event", "closed the connection", stream(TOKEN, LAST[:20], end=False), tokens=1
    ),
    Case(FailureKind.TRUNCATED, "reset", "", stream(TOKEN, then=lambda peer: (peer.wait(0.1), peer.reset())), tokens=1),
    Case(FailureKind.TRUNCATED, "not-a-byte", "before its first byte", take),
    Case(FailureKind.MALFORMED, "no-http", "not valid HTTP/1.1", lambda peer: (take(peer), peer.send(b"220 mail\r\n"))),
    Case(FailureKind.MALFORMED, "no-json", "no JSON object: {half", stream(TOKEN, b"data: {half\n\n", DONE), tokens=1),
    Case(FailureKind.MALFORMED, "no-answer", "without any answer", stream(b'data: {"id":"1"}\n\n', DONE)),
    Case(FailureKind.CANCELLED, "stopped", "stopped before the answer", stream(TOKEN, then=hang)),
)


@contextlib.contextmanager
def full_queue() -> Iterator[Endpoint]:
    """A listener whose queue has no room: the kernel drops what knocks."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield Endpoint("127.0.0.1", listener.getsockname()[1])


def row(case: Case, serve: Any, load: Any) -> RequestRecord:
    """What is stored of one request to the server of `case`."""
    stop = StopFlag()
    script = case.script
    if case.kind is FailureKind.CANCELLED:
        script = stream(TOKEN, then=lambda peer: (stop.set(), hang(peer)))
    with contextlib.ExitStack() as stack:
        endpoint = case.endpoint
        if case.kind is FailureKind.CONNECT_TIMEOUT:
            endpoint = stack.enter_context(full_queue())
        elif endpoint is None:
            endpoint = replace(serve(script).endpoint, host="localhost" if case.tls else "127.0.0.1", tls=case.tls)
        adapter = OpenAIAdapter()
        payload = adapter.encode(REQUEST, endpoint).payload
        _, done = load(endpoint, timeouts=case.timeouts, stop=stop, payload=payload)
    planned = PlannedRequest("r", 0, None, REQUEST, warmup=False, prompt_tokens=1)
    trial = Trial(EngineSpec(name="openai"), "burst", BurstArrivals(), 0, (planned,), (), None)
    return to_records(trial, planned, done["0"], adapter, None).record


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
def test_lands_as_its_own_kind(case: Case, serve: Any, load: Any) -> None:
    record = row(case, serve, load)
    assert (record.status, record.error_kind) == ("failed", str(case.kind)), record.error
    assert record.error is not None
    assert case.says in record.error
    assert record.end_ns is not None
    if case.tokens is not None:  # what came before the failure is kept
        assert record.output_tokens == case.tokens


def test_every_kind_is_produced() -> None:
    assert {case.kind for case in CASES} == set(FailureKind)
