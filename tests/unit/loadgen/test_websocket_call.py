"""The bytes of a WebSocket, however the network cuts them and whatever they are."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request, TextMessage

from llmbench.engines.wire import Endpoint, Timeline, WireRequest
from llmbench.harness.websocket_call import WebSocketCall
from llmbench.workloads.spec import TimeoutSpec

WIRE = WireRequest("websocket", Endpoint("h", 1, websocket=True), b"{}", "/v1/completions")
WORDS = ("one", "zwö", "", "x" * 300, "[DONE]")


class Heard:
    """A connection that keeps what it is told to send."""

    is_sending = False

    def __init__(self) -> None:
        self.said = b""
        self.is_closed = False

    def open(self, listener: Any) -> None:
        listener.connected(0)

    def send(self, payload: bytes) -> None:
        assert not self.is_closed
        self.said += payload

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def opened(loop: asyncio.AbstractEventLoop) -> tuple[WebSocketCall, bytes, list[WebSocketCall]]:
    """A call that has asked to switch, what a server says to it from there on, and where it shows that it is done."""
    done: list[WebSocketCall] = []
    call = WebSocketCall(loop, WIRE, Timeline(0), TimeoutSpec(), done.append)
    connection: Any = Heard()
    call.open(connection)
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(connection.said)
    assert any(isinstance(event, Request) for event in server.events())
    events = (
        AcceptConnection(),
        Ping(payload=b"p"),
        *(TextMessage(data=word) for word in WORDS),
        CloseConnection(1000),
    )
    return call, b"".join(server.send(event) for event in events), done


def feed(call: WebSocketCall, data: bytes, cuts: list[int]) -> None:
    bounds = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for now_ns, (start, end) in enumerate(itertools.pairwise(bounds), start=1):
        if call.feed(data[start:end], now_ns):
            call.answered()
            return
    call.end_of_stream(len(bounds))
    call.answered()


@given(cuts=st.lists(st.integers(0, 10_000), max_size=40))
def test_messages_are_the_same_however_they_are_cut(loop: asyncio.AbstractEventLoop, cuts: list[int]) -> None:
    call, data, done = opened(loop)
    feed(call, data, cuts)
    timeline = call.timeline
    assert timeline.failure is None
    assert timeline.chunk_bytes == [word.encode() for word in WORDS]
    assert timeline.chunk_ns == sorted(timeline.chunk_ns)
    assert len(timeline.coalesced) == len(timeline.arrival_ns) == len(WORDS)
    # The last message of every read carries its stamp by right, and only that one.
    for index, (stamp, later) in enumerate(itertools.pairwise(timeline.chunk_ns)):
        assert timeline.coalesced[index] == (stamp == later)
    assert done == [call]


@given(place=st.integers(0, 10_000), junk=st.binary(min_size=1, max_size=20), cuts=st.lists(st.integers(0, 10_000)))
def test_mutated_bytes_end_the_call_and_never_raise(
    loop: asyncio.AbstractEventLoop, place: int, junk: bytes, cuts: list[int]
) -> None:
    call, data, done = opened(loop)
    start = place % len(data)
    feed(call, data[:start] + junk + data[start + len(junk) :], cuts)
    assert call.timeline.end_ns is not None
    assert done == [call]
