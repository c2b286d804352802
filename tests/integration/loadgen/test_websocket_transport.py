"""Requests over WebSocket, against a server that shares no code with the transport but wsproto's framing."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)

from llmbench.engines import registry
from llmbench.engines.openai import OpenAIAdapter
from llmbench.engines.wire import Endpoint, FailureKind, GenerationRequest, Timeline, TokenSource
from llmbench.harness.errors import MissingExtraError
from llmbench.harness.loadgen import Outgoing, StopFlag, run_load
from llmbench.workloads.spec import TimeoutSpec

REQUEST = GenerationRequest("r", "m", max_tokens=2, prompt="hellö")
TOKEN = '{"choices":[{"text":"ä","index":0}]}'
LAST = '{"choices":[{"text":"b","index":0,"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
PATIENT = TimeoutSpec(connect_s=60, first_token_s=60, idle_s=60, total_s=100)


class Speaker:
    """The server's side of one WebSocket."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.protocol = WSConnection(ConnectionType.SERVER)
        self.request = self.next(Request)

    def next(self, kind: Any) -> Any:
        """The next event of that kind."""
        while True:
            for event in self.protocol.events():
                if isinstance(event, kind):
                    return event
            data = self.peer.socket.recv(65536)
            if not data:
                raise OSError("gone")
            self.protocol.receive_data(data)

    def say(self, *events: Any) -> None:
        """All events in one segment."""
        self.peer.send(b"".join(self.protocol.send(event) for event in events))

    def asked(self) -> str:
        self.say(AcceptConnection())
        parts = []
        while not parts or not parts[-1].message_finished:
            parts.append(self.next(Message))
        return "".join(part.data for part in parts)


def messages(*data: str) -> list[TextMessage]:
    return [TextMessage(data=each) for each in data]


Script = Callable[[Speaker], None]


@pytest.fixture
def ask(serve: Any) -> Callable[..., Timeline]:
    """`ask(script)` is what became of one request to a server that follows it."""

    def run(script: Script, timeouts: TimeoutSpec = PATIENT, stop: StopFlag | None = None, num: int = 1) -> Timeline:
        def play(peer: Any) -> None:
            script(Speaker(peer))

        endpoint = registry.url_endpoint(f"ws://127.0.0.1:{serve(play).endpoint.port}", "secret")
        return load(endpoint, timeouts, stop, num)

    return run


def load(endpoint: Endpoint, timeouts: TimeoutSpec = PATIENT, stop: StopFlag | None = None, num: int = 1) -> Timeline:
    wire = OpenAIAdapter().encode(REQUEST, endpoint)
    done: list[Timeline] = []
    report = run_load(
        [Outgoing(str(index), None, wire) for index in range(num)],
        concurrency=num,
        timeouts=timeouts,
        on_done=lambda request_id, timeline: done.append(timeline),
        stop=stop or StopFlag(),
    )
    assert len(done) == num
    assert report.instrument.clock == "user space"
    return done[0]


def close(code: int = 1000, reason: str = "") -> CloseConnection:
    return CloseConnection(code=code, reason=reason)


def test_a_message_is_a_chunk(ask: Any) -> None:
    heard: list[Any] = []

    def answer(speaker: Speaker) -> None:
        heard.append(json.loads(speaker.asked()))
        heard.append(speaker.request)
        for event in messages(TOKEN, LAST, "[DONE]"):
            speaker.say(event)
            speaker.peer.wait(0.05)
        speaker.say(close())

    timeline = ask(answer)
    assert timeline.failure is None
    assert timeline.due_ns <= timeline.begun_ns < timeline.connect_ns < timeline.sent_ns
    assert timeline.sent_ns < timeline.first_byte_ns <= timeline.end_ns
    assert timeline.chunk_bytes == [TOKEN.encode(), LAST.encode(), b"[DONE]"]
    assert timeline.chunk_ns[1] - timeline.chunk_ns[0] >= 40_000_000
    body, request = heard
    assert (body["prompt"], body["stream"]) == ("hellö", True)
    assert request.target == "/v1/completions"
    assert (b"authorization", b"Bearer secret") in request.extra_headers
    decoded = OpenAIAdapter().decode(REQUEST, timeline)
    assert (decoded.text, decoded.output_tokens, decoded.prompt_tokens, decoded.failure) == ("äb", 2, 3, None)
    assert decoded.token_source is not TokenSource.ASSUMED_ONE
    assert [event.tokens for event in decoded.events] == [1, 1, 0]


def test_several_messages_in_one_read_are_marked(ask: Any) -> None:
    timeline = ask(lambda speaker: (speaker.asked(), speaker.say(*messages(TOKEN, LAST, "[DONE]"), close())))
    assert timeline.chunk_bytes == [TOKEN.encode(), LAST.encode(), b"[DONE]"]
    assert len(set(timeline.chunk_ns)) == 1
    assert timeline.coalesced == [True, True, False]


def test_a_message_in_pieces_is_stamped_by_its_last(ask: Any) -> None:
    def answer(speaker: Speaker) -> None:
        speaker.asked()
        speaker.say(TextMessage(data=TOKEN[:9], message_finished=False))
        speaker.peer.wait(0.1)
        speaker.say(TextMessage(data=TOKEN[9:]), close())

    timeline = ask(answer)
    assert timeline.chunk_bytes == [TOKEN.encode()]
    assert timeline.chunk_ns[0] - timeline.first_byte_ns >= 90_000_000


def test_pings_are_answered_and_are_no_chunks(ask: Any) -> None:
    ponged = threading.Event()

    def answer(speaker: Speaker) -> None:
        speaker.asked()
        speaker.say(Ping(payload=b"here?"))
        assert speaker.next(Pong).payload == b"here?"
        ponged.set()
        speaker.say(*messages(LAST, "[DONE]"), close())

    assert len(ask(answer).chunk_bytes) == 2
    assert ponged.is_set()


def test_an_answer_in_one_piece(ask: Any) -> None:
    timeline = ask(lambda speaker: (speaker.asked(), speaker.say(*messages(LAST), close())))
    decoded = OpenAIAdapter().decode(replace(REQUEST, stream=False), timeline)
    assert (decoded.text, decoded.failure) == ("b", None)


def reject(status: int, body: bytes = b"", *headers: tuple[bytes, bytes]) -> Script:
    def answer(speaker: Speaker) -> None:
        speaker.peer.send(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n" % (status, len(body)))
        speaker.peer.send(b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + body)

    return answer


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        (reject(404, b'{"error":{"message":"no such path"}}'), FailureKind.HTTP_STATUS, "HTTP 404: no such path"),
        (reject(429, b"", (b"Retry-After", b"7")), FailureKind.RATE_LIMITED, "(Retry-After: 7)"),
        (reject(200, b"hello"), FailureKind.MALFORMED, "did not switch to WebSocket"),
        (lambda speaker: speaker.peer.send(b"220 mail\r\n\r\n"), FailureKind.MALFORMED, "does not speak WebSocket"),
        (lambda speaker: None, FailureKind.TRUNCATED, "before it had switched"),
        (lambda speaker: speaker.asked(), FailureKind.TRUNCATED, "without closing it"),
        (
            lambda speaker: (speaker.asked(), speaker.say(*messages(TOKEN), close())),
            FailureKind.TRUNCATED,
            "without its end marker [DONE]",
        ),
        (lambda speaker: (speaker.asked(), speaker.say(close())), FailureKind.TRUNCATED, "without one event"),
        (
            lambda speaker: (speaker.asked(), speaker.say(*messages(TOKEN), close(1011, "out of memory"))),
            FailureKind.SERVER_ERROR,
            "1011: out of memory",
        ),
        (lambda speaker: (speaker.asked(), speaker.say(close(1013, "later"))), FailureKind.RATE_LIMITED, "later"),
        (
            lambda speaker: (speaker.asked(), speaker.peer.send(b"\xff\xff\xff\xff")),
            FailureKind.MALFORMED,
            "broke its protocol",
        ),
        (
            lambda speaker: (speaker.asked(), speaker.say(*messages('{"error":"no room"}', "[DONE]"), close())),
            FailureKind.SERVER_ERROR,
            "no room",
        ),
    ],
)
def test_failures_have_their_kind(ask: Any, script: Script, kind: FailureKind, says: str) -> None:
    timeline = ask(script)
    failure = OpenAIAdapter().decode(REQUEST, timeline).failure
    assert failure is not None
    assert failure.kind is kind, failure
    assert says in failure.message
    assert timeline.end_ns is not None


@pytest.mark.parametrize(
    ("timeouts", "num_messages", "kind"),
    [
        ({"connect_s": 0.2}, None, FailureKind.CONNECT_TIMEOUT),
        ({"first_token_s": 0.2}, 0, FailureKind.FIRST_TOKEN_TIMEOUT),
        ({"idle_s": 0.2}, 1, FailureKind.IDLE_TIMEOUT),
        ({"total_s": 0.2}, 1, FailureKind.TOTAL_TIMEOUT),
    ],
)
def test_timeouts(ask: Any, timeouts: dict[str, float], num_messages: int | None, kind: FailureKind) -> None:
    def hang(speaker: Speaker) -> None:
        if num_messages is not None:
            speaker.asked()
            speaker.say(*messages(TOKEN)[:num_messages])
        speaker.peer.wait(60)

    timeline = ask(hang, TimeoutSpec.model_validate({**PATIENT.model_dump(), **timeouts}))
    assert timeline.failure.kind is kind


def test_nobody_there_and_no_such_name() -> None:
    refused = load(Endpoint("127.0.0.1", 1, websocket=True)).failure
    assert refused is not None
    assert refused.kind is FailureKind.CONNECT
    unknown = load(Endpoint("no-such-host.invalid", 80, websocket=True)).failure
    assert unknown is not None
    assert unknown.kind is FailureKind.DNS


def test_stopped_in_mid_stream(ask: Any) -> None:
    stop = StopFlag()

    def hang(speaker: Speaker) -> None:
        speaker.asked()
        speaker.say(*messages(TOKEN))
        stop.set()
        speaker.peer.wait(60)

    assert ask(hang, stop=stop).failure.kind is FailureKind.CANCELLED


def test_many_at_once(ask: Any) -> None:
    def answer(speaker: Speaker) -> None:
        with contextlib.suppress(OSError):
            speaker.asked()
            speaker.say(*messages(LAST, "[DONE]"), close())

    assert ask(answer, num=20).failure is None


def test_without_the_package_its_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("websocket_transport", "websocket_call"):
        monkeypatch.delitem(sys.modules, f"llmbench.harness.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "wsproto", None)
    with pytest.raises(MissingExtraError, match=r'pip install "llmbench\[websocket\]"'):
        load(Endpoint("127.0.0.1", 1, websocket=True))
