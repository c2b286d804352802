"""What stamps the chunks: the kernel and the packet clock are right about segments that were read late and together."""

import itertools
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmbench.engines.wire import Endpoint, Timeline, WireRequest
from llmbench.harness import packet_clock
from llmbench.harness.connection import Connection
from llmbench.harness.epoll_reads import EpollReads
from llmbench.harness.errors import ConfigError
from llmbench.harness.loadgen import Outgoing, StopFlag, run_load
from llmbench.harness.native_reads import NativeReads
from llmbench.workloads.spec import TimeoutSpec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernel stamps are Linux's")

NUM_CHUNKS = 8
GAP_S = 0.03


def can_capture() -> bool:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0).close()
    except PermissionError:
        return False
    return True


needs_capture = pytest.mark.skipif(not can_capture(), reason="needs CAP_NET_RAW")


class Sender:
    """Sends chunks `GAP_S` apart and keeps the bracket of each: before the send, and after the kernel had taken it."""

    def __init__(self) -> None:
        self.brackets: list[tuple[int, int]] = []

    def __call__(self, peer: Any) -> None:
        while peer.request():
            peer.head()
            for _ in range(NUM_CHUNKS):
                peer.wait(GAP_S)
                before = time.perf_counter_ns()
                peer.chunk(b"data: x\n\n")
                self.brackets.append((before, time.perf_counter_ns()))
            peer.wait(GAP_S)
            peer.end()


def load_with_a_pause(
    endpoint: Endpoint, clock: Any, monkeypatch: pytest.MonkeyPatch, num_requests: int = 1
) -> tuple[Any, list[Timeline]]:
    """A load whose process does nothing for a time that spans several chunks, each time that the first one is read."""
    pauses = itertools.count()

    def pausing(read: Callable[[Any], None]) -> Callable[[Any], None]:
        def read_and_pause(owner: Any) -> None:
            read(owner)
            if next(pauses) % 5 == 1:
                time.sleep(4 * GAP_S)

        return read_and_pause

    if clock == "user":
        monkeypatch.setattr(Connection, "on_readable", pausing(Connection.on_readable))
    for reads in (EpollReads, NativeReads):
        monkeypatch.setattr(reads, "drain", pausing(reads.drain))
    payload = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
    done: list[Timeline] = []
    report = run_load(
        [Outgoing(str(index), None, WireRequest("http", endpoint, payload)) for index in range(num_requests)],
        concurrency=1,
        timeouts=TimeoutSpec(),
        on_done=lambda _, timeline: done.append(timeline),
        stop=StopFlag(),
        clock=clock,
    )
    assert all(timeline.failure is None for timeline in done)
    return report, done


def test_a_late_read_of_several_segments_is_marked(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = Sender()
    report, (timeline,) = load_with_a_pause(serve(sender).endpoint, "kernel", monkeypatch)
    assert report.instrument.clock == "kernel"
    assert any(timeline.coalesced)
    assert report.instrument.num_coalesced == sum(timeline.coalesced)
    assert report.instrument.client_lag.n == len(timeline.chunk_ns)
    # Every stamp is right for the last of the chunks that came in its read, marked or not.
    num_read = 0
    for index, body in enumerate(timeline.chunk_bytes):
        num_read += body.count(b"data:")
        before, _ = sender.brackets[num_read - 1]
        assert before <= timeline.stamp_ns(index) <= timeline.chunk_ns[index]
        assert timeline.coalesced[index] == (body.count(b"data:") > 1)


def test_a_burst_in_one_segment_is_not_marked(serve: Any, load: Any) -> None:
    def burst(peer: Any) -> None:
        while peer.request():
            peer.head()
            for _ in range(5):
                peer.wait(0.01)
                peer.send(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n")
            peer.wait(0.01)
            peer.end()

    _, done = load(serve(burst).endpoint, 2)
    for timeline in done.values():
        if len(timeline.chunk_bytes) == 5:  # else the machine was so busy that two of them were read together
            assert timeline.chunk_bytes == [b"abc"] * 5
            assert not any(timeline.coalesced)


def test_user_space_stamps_on_request(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    report, (timeline,) = load_with_a_pause(serve(Sender()).endpoint, "user", monkeypatch)
    assert report.instrument.clock == "user space"
    assert set(timeline.arrival_ns) == {None}
    assert any(timeline.coalesced)
    assert report.instrument.client_lag.n == 0


@needs_capture
def test_the_packet_clock_tells_late_segments_apart(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = Sender()
    # Several answers on one connection: where one ends in the stream, the next begins.
    report, done = load_with_a_pause(serve(sender).endpoint, "packet", monkeypatch, num_requests=3)
    assert report.instrument.clock == "packet"
    for round_index, timeline in enumerate(done):
        assert timeline.chunk_bytes == [b"data: x\n\n"] * NUM_CHUNKS
        assert not any(timeline.coalesced)
        brackets = sender.brackets[round_index * NUM_CHUNKS :]
        for index in range(NUM_CHUNKS):
            before, _ = brackets[index]
            assert before <= timeline.stamp_ns(index) <= timeline.chunk_ns[index]
            if index + 1 < NUM_CHUNKS:
                assert timeline.stamp_ns(index) < brackets[index + 1][0]
        assert max(read - timeline.stamp_ns(i) for i, read in enumerate(timeline.chunk_ns)) > GAP_S * 1e9
        assert timeline.first_byte_ns <= timeline.stamp_ns(0)
        assert timeline.end_ns >= timeline.stamp_ns(NUM_CHUNKS - 1)


@needs_capture
def test_the_packet_clock_over_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 loopback")
    chunk = b"9\r\ndata: x\n\n\r\n"

    def serve_once() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(NUM_CHUNKS):
                time.sleep(GAP_S)
                connection.sendall(chunk)
            connection.sendall(b"0\r\n\r\n")
            connection.recv(1)

    thread = threading.Thread(target=serve_once)
    thread.start()
    _, (timeline,) = load_with_a_pause(Endpoint("::1", listener.getsockname()[1]), "packet", monkeypatch)
    thread.join()
    listener.close()
    assert timeline.chunk_bytes == [b"data: x\n\n"] * NUM_CHUNKS
    assert not any(timeline.coalesced)


def test_the_packet_clock_without_the_capability(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(packet_clock, "PacketRing", refuse)
    with pytest.raises(ConfigError, match="CAP_NET_RAW"):
        run_load(
            [Outgoing("0", 0, WireRequest("http", Endpoint("127.0.0.1", 9), b""))],
            concurrency=None,
            timeouts=TimeoutSpec(),
            on_done=lambda *_: None,
            stop=StopFlag(),
            clock="packet",
        )
