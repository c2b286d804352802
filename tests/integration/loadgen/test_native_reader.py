"""The compiled reader gives the timelines that Python's reader gives, and loses nothing that it cannot keep itself."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from time import perf_counter_ns
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.engines.wire import Timeline
from llmbench.harness.errors import ConfigError
from llmbench.harness.native_reads import CHOICE, chosen_reader
from llmbench.harness.read_poller import NEVER_NS
from llmbench.harness.response_reader import MAX_BODY_BYTES, ResponseReader
from llmbench.harness.wall_offset import WallOffset

os.environ.pop(CHOICE, None)
native: Any = chosen_reader()

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's"),
    pytest.mark.skipif(native is None, reason="the compiled reader was not built"),
]

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MINUTE_NS = 60_000_000_000


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def drain(reads: Any, offset_ns: int = 0, until_ns: int = NEVER_NS) -> list[tuple[Any, ...]]:
    """What was handed over of everything that can be read now."""
    reads.poll()
    handed = []
    while (read := reads.drain(offset_ns, MINUTE_NS, until_ns)) is not None:
        if read is not True:
            handed.append(read)
    return handed


@contextlib.contextmanager
def stream(log: Any) -> Iterator[tuple[Any, socket.socket]]:
    """A set that reads one end of a stream into `log`, and the other end."""
    near, far = socket.socketpair()
    reads = native.ReadSet()
    near.setblocking(False)
    reads.add(near.fileno(), "target")
    reads.expect(near.fileno(), log)
    try:
        yield reads, far
    finally:
        reads.close()
        near.close()
        far.close()


@contextlib.contextmanager
def tcp_stream(log: Any) -> Iterator[tuple[Any, socket.socket, socket.socket]]:
    """The same over TCP, with the kernel's stamps; and the near end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    near.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
    near.setblocking(False)
    reads = native.ReadSet()
    reads.add(near.fileno(), "target")
    reads.expect(near.fileno(), log)
    try:
        yield reads, far, near
    finally:
        reads.close()
        near.close()
        far.close()


def wait_for_arrival(near: socket.socket) -> None:
    """A busy kernel hands over what was sent on the same machine a little later."""
    assert select.select([near], [], [], 30)[0]


def feed(reader: ResponseReader, data: bytes | int, read_ns: int) -> bool:
    """Whether the answer has ended, by what a connection would do with a read."""
    assert isinstance(data, bytes)
    if data:
        return reader.feed(data, read_ns)
    reader.end_of_stream(read_ns)
    return True


def read_in_python(pieces: list[bytes]) -> tuple[Timeline, ResponseReader]:
    timeline = Timeline(due_ns=0)
    reader = ResponseReader(timeline)
    for index, piece in enumerate([*pieces, b""]):
        if feed(reader, piece, index):
            break
    return timeline, reader


def read_natively(pieces: list[bytes]) -> tuple[Timeline, ResponseReader]:
    """The same pieces, each read as it is sent; the stamps are checked here, and replaced by the piece's number."""
    timeline = Timeline(due_ns=0)
    log = native.ChunkLog(MAX_BODY_BYTES)
    reader = ResponseReader(timeline, log=log)
    sent_ns: list[int] = []
    with stream(log) as (reads, far):
        ended = False
        for piece in [*pieces, b""]:
            sent_ns.append(perf_counter_ns())
            if piece:
                far.sendall(piece)
            else:
                far.shutdown(socket.SHUT_WR)
            for _, data, read_ns, _, _ in drain(reads):
                assert sent_ns[-1] <= read_ns <= perf_counter_ns()
                ended = ended or feed(reader, data, read_ns)
            if ended:
                break
    edges = [*sent_ns, perf_counter_ns()]

    def number(stamp_ns: int) -> int:
        return next(index for index, (begin, end) in enumerate(itertools.pairwise(edges)) if begin <= stamp_ns < end)

    timeline.chunk_ns = [number(stamp_ns) for stamp_ns in timeline.chunk_ns]
    assert timeline.first_byte_ns is not None
    assert timeline.end_ns is not None
    timeline.first_byte_ns, timeline.end_ns = number(timeline.first_byte_ns), number(timeline.end_ns)
    return timeline, reader


@st.composite
def sized_chunks(draw: st.DrawFn) -> bytes:
    """An HTTP chunk as some server writes it."""
    data = draw(st.binary(min_size=1, max_size=300))
    size = draw(st.sampled_from(["{:x}", "{:x}", "{:X}", "{:04x}", "{:x};a=b", "{:x} "])).format(len(data))
    return size.encode() + b"\r\n" + data + b"\r\n"


@st.composite
def cut_and_mutated(draw: st.DrawFn) -> list[bytes]:
    """Pieces of an answer: mostly whole chunks, some joined, some cut; in half of the cases a few bytes are wrong."""
    whole = draw(st.lists(st.one_of(sized_chunks(), st.binary(min_size=1, max_size=8)), max_size=10))
    parts = [HEAD, *(whole if draw(st.booleans()) else map(chunk, whole)), b"0\r\n\r\n"]
    wire = bytearray(b"".join(parts))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        wire[draw(st.integers(0, len(wire) - 1))] = draw(st.integers(0, 255))
    edges = set(itertools.accumulate(map(len, parts))) | {0}
    edges -= set(draw(st.lists(st.sampled_from(sorted(edges - {0, len(wire)}) or [1]), max_size=4)))
    edges |= {cut % len(wire) for cut in draw(st.lists(st.integers(1, 5_000), max_size=4))} | {len(wire)}
    return [bytes(wire[begin:end]) for begin, end in itertools.pairwise(sorted(edges))]


@settings(max_examples=400, deadline=None)
@given(cut_and_mutated())
def test_any_bytes_however_cut_give_the_timeline_that_python_gives(pieces: list[bytes]) -> None:
    expected, python = read_in_python(pieces)
    found, ours = read_natively(pieces)
    assert found == expected
    assert ours.is_reusable == python.is_reusable


def test_whole_chunks_are_kept_and_stamped_by_the_kernel() -> None:
    log = native.ChunkLog(MAX_BODY_BYTES)
    wall = WallOffset()
    log.between_frames = True
    bodies = [b"x" * size for size in (1, 15, 16, 255, 256, 40_000)]
    with tcp_stream(log) as (reads, far, near):
        brackets = []
        for body in bodies:
            before_ns = perf_counter_ns()
            far.sendall(chunk(body))
            wait_for_arrival(near)
            after_ns = perf_counter_ns()
            time.sleep(0.002)
            assert drain(reads, wall.offset_ns) == []
            brackets.append((before_ns, after_ns, perf_counter_ns()))
    read_ns, arrival_ns, kept, coalesced = log.take()
    assert kept == bodies
    assert coalesced == [False] * len(bodies)
    for (before, after, end), arrival, read in zip(brackets, arrival_ns, read_ns, strict=True):
        assert before - 50_000 <= arrival <= after + 50_000  # the wall clock is slewed a little between two samples
        assert after + 1_500_000 <= read <= end
    assert log.take() == ([], [], [], [])


def test_a_stamp_that_cannot_be_is_left_to_python() -> None:
    log = native.ChunkLog(MAX_BODY_BYTES)
    log.between_frames = True
    offset_ns = WallOffset().offset_ns
    with tcp_stream(log) as (reads, far, near):
        for wrong_ns in (-1_000_000_000, 2 * MINUTE_NS):  # arrived after its read, or minutes before it
            far.sendall(chunk(b"a"))
            wait_for_arrival(near)
            ((target, data, read_ns, wall_ns, _),) = drain(reads, offset_ns + wrong_ns)
            assert (target, data) == ("target", chunk(b"a"))
            assert abs(wall_ns - offset_ns - read_ns) < 1_000_000_000
    assert log.last_read_ns is None


def test_bodies_are_bounded() -> None:
    log = native.ChunkLog(100)
    log.between_frames = True
    with stream(log) as (reads, far):
        far.sendall(chunk(b"a" * 60))
        assert drain(reads) == []
        far.sendall(chunk(b"b" * 60))
        assert [read[1] for read in drain(reads)] == [chunk(b"b" * 60)]
    assert log.num_bytes == 60


def test_a_read_that_fills_the_buffer_is_followed_by_another() -> None:
    log = native.ChunkLog(MAX_BODY_BYTES)
    log.between_frames = True
    wire = chunk(b"a" * (native.READ_BYTES - 8)) + chunk(b"b")
    assert len(chunk(b"a" * (native.READ_BYTES - 8))) == native.READ_BYTES
    with stream(log) as (reads, far):
        far.sendall(wire)
        parts = [read[1] for read in drain(reads)]
        assert parts == [wire[: native.READ_BYTES]]  # it may be a part of more: only the parser can tell
        assert drain(reads) == []
    assert log.take()[2] == [b"b"]


def test_what_is_due_in_between_interrupts_after_one_read() -> None:
    logs = [native.ChunkLog(MAX_BODY_BYTES) for _ in range(3)]
    pairs = [socket.socketpair() for _ in logs]
    reads = native.ReadSet()
    for log, (near, far) in zip(logs, pairs, strict=True):
        log.between_frames = True
        reads.add(near.fileno(), "target")
        reads.expect(near.fileno(), log)
        far.sendall(chunk(b"a"))
    assert reads.poll() == 3
    answers = [reads.drain(0, MINUTE_NS, 0) for _ in range(3)]
    assert answers == [True, True, None]
    assert [log.num_bytes for log in logs] == [1, 1, 1]
    reads.close()
    for sock in itertools.chain.from_iterable(pairs):
        sock.close()


def test_a_socket_removed_or_closed_before_its_turn_is_not_read() -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    reads = native.ReadSet()
    for number, (near, far) in enumerate(pairs):
        reads.add(near.fileno(), number)
        far.sendall(b"x")
    assert reads.poll() == 3
    assert reads.drain(0, MINUTE_NS, NEVER_NS)[:2] == (0, b"x")
    reads.remove(pairs[1][0].fileno())
    pairs[1][0].close()
    assert reads.drain(0, MINUTE_NS, NEVER_NS)[:2] == (2, b"x")
    assert reads.drain(0, MINUTE_NS, NEVER_NS) is None
    reads.remove(pairs[1][0].fileno())  # -1 by now
    reads.again(12_345)
    reads.expect(12_345, None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        reads.add(12_345, "nothing there")
    with pytest.raises(ValueError, match="negative"):
        reads.add(-1, "nothing there")
    with pytest.raises(TypeError):
        reads.expect(pairs[0][0].fileno(), "no log")
    for sock in itertools.chain.from_iterable(pairs):
        sock.close()
    reads.close()
    reads.close()
    assert reads.drain(0, MINUTE_NS, NEVER_NS) is None


def test_a_reset_is_told_with_its_reason() -> None:
    with tcp_stream(None) as (reads, far, near):
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        wait_for_arrival(near)
        ((_, data, _, _, num_reads),) = drain(reads)
        assert os.strerror(data) == "Connection reset by peer"
        assert num_reads == 0


def test_a_log_that_still_holds_rows_can_be_dropped() -> None:
    log = native.ChunkLog(MAX_BODY_BYTES)
    for index in range(1_000):
        log.append(index, None if index % 3 else index - 1, b"x" * index, index % 2 == 0)
    assert (log.num_bytes, log.last_read_ns) == (499_500, 999)
    with pytest.raises(TypeError):
        log.append(0, "never", b"", False)
    with pytest.raises(OverflowError):
        log.append(2**63, None, b"", False)
    assert log.num_bytes == 499_500
    del log


@pytest.mark.parametrize("reader", ["native", "python"])
def test_a_load_says_which_reader_it_had(reader: str, serve: Any, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(peer: Any) -> None:
        while peer.request():
            peer.head()
            for index in range(20):
                peer.wait(0.002)
                peer.chunk(b"data: %d\n\n" % index)
            peer.end()

    monkeypatch.setenv(CHOICE, reader)
    report, done = load(serve(script).endpoint, 3)
    assert report.instrument.reader == reader
    for timeline in done.values():
        assert timeline.failure is None
        assert b"".join(timeline.chunk_bytes) == b"".join(b"data: %d\n\n" % index for index in range(20))
        stamps = zip(timeline.arrival_ns, timeline.chunk_ns, strict=True)
        assert all(arrival is not None and arrival <= read for arrival, read in stamps)
    assert report.instrument.num_chunks == sum(len(timeline.chunk_ns) for timeline in done.values())


def test_an_unknown_reader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "rust")
    with pytest.raises(ConfigError, match="takes native or python"):
        chosen_reader()


def test_a_reader_that_was_not_built_is_missed_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import llmbench.harness

    monkeypatch.setitem(sys.modules, "llmbench.harness.native_reader", None)
    monkeypatch.delattr(llmbench.harness, "native_reader", raising=False)
    monkeypatch.delenv(CHOICE, raising=False)
    assert chosen_reader() is None
    monkeypatch.setenv(CHOICE, "native")
    with pytest.raises(ConfigError, match="C compiler"):
        chosen_reader()


def test_a_reader_built_from_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE - 1)
    monkeypatch.delenv(CHOICE, raising=False)
    assert chosen_reader() is None
    monkeypatch.setenv(CHOICE, "native")
    with pytest.raises(ConfigError, match="other sources"):
        chosen_reader()
