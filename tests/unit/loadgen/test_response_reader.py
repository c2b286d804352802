"""The reader gives the same answer however the network cut it, and a failure for anything that is no answer."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines.wire import FailureKind, Timeline
from llmbench.harness import response_reader
from llmbench.harness.response_reader import ResponseReader

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def read(*pieces: bytes, end: bool = False) -> tuple[Timeline, ResponseReader, bool]:
    """The timeline after `pieces`, read 10 ns apart from 100 on; fed no further than the reader wants."""
    timeline = Timeline(due_ns=0)
    reader = ResponseReader(timeline)
    done = False
    for index, piece in enumerate(pieces):
        done = reader.feed(piece, 100 + 10 * index)
        if done:
            break
    if end and not done:
        reader.end_of_stream(1_000)
    return timeline, reader, done


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, bytes, int]:
    """(bytes on the wire, body, status) of a valid answer whose end can be told without the connection's end."""
    status = draw(st.sampled_from([200, 404, 429, 503]))
    bodies = draw(st.lists(st.binary(min_size=1, max_size=60), max_size=8))
    interim = draw(
        st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"])
    )
    head = b"HTTP/1.1 %d Any\r\nServer: s\r\n" % status
    body = b"".join(bodies)
    if draw(st.booleans()):
        wire = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        trailer = draw(st.sampled_from([b"", b"X-Trailer: 1\r\n"]))
        wire = (
            head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(map(chunk, bodies)) + b"0\r\n" + trailer + b"\r\n"
        )
    return interim + wire, body, status


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges) if start < stop]


@given(responses(), st.lists(st.integers(0, 2000), max_size=12))
def test_any_split_gives_the_same_answer(response: tuple[bytes, bytes, int], cuts: list[int]) -> None:
    wire, body, status = response
    pieces = split(wire, cuts)
    timeline, reader, done = read(*pieces)
    assert done
    assert timeline.failure is None
    assert timeline.status == status
    assert ("Server", "s") in timeline.headers
    assert ("Link", "x") not in timeline.headers
    assert b"".join(timeline.chunk_bytes) == body
    assert all(timeline.chunk_bytes)
    assert timeline.first_byte_ns == 100
    assert timeline.end_ns == 100 + 10 * (len(pieces) - 1)
    assert timeline.chunk_ns == sorted(set(timeline.chunk_ns))
    assert len(timeline.chunk_ns) == len(timeline.arrival_ns) == len(timeline.coalesced) == len(timeline.chunk_bytes)
    assert reader.is_reusable


@given(responses(), st.data())
def test_an_answer_cut_short_is_truncated(response: tuple[bytes, bytes, int], data: st.DataObject) -> None:
    wire, _, _ = response
    timeline, reader, done = read(wire[: data.draw(st.integers(1, len(wire) - 1))], end=True)
    assert not done
    assert timeline.failure is not None
    assert timeline.failure.kind is FailureKind.TRUNCATED
    assert not reader.is_reusable


@given(responses(), st.data())
def test_mutated_bytes_never_raise(response: tuple[bytes, bytes, int], data: st.DataObject) -> None:
    wire = bytearray(response[0])
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    timeline, _, _ = read(*split(bytes(wire), data.draw(st.lists(st.integers(0, 2000), max_size=5))), end=True)
    assert timeline.end_ns is not None
    if timeline.failure is not None:
        assert timeline.failure.kind in (FailureKind.MALFORMED, FailureKind.TRUNCATED)


@st.composite
def sized_chunks(draw: st.DrawFn) -> bytes:
    """An HTTP chunk as some server writes it: lower or upper case, leading zeros, an extension."""
    data = draw(st.binary(min_size=1, max_size=300))
    size = draw(st.sampled_from(["{:x}", "{:X}", "{:04x}", "{:x};a=b", "{:x} "])).format(len(data))
    return size.encode() + b"\r\n" + data + b"\r\n"


@given(st.lists(st.one_of(sized_chunks(), sized_chunks(), st.binary(min_size=1, max_size=12)), max_size=8))
def test_a_read_that_is_one_whole_frame_is_read_as_the_parser_reads_it(pieces: list[bytes]) -> None:
    """Read piece by piece, where the parser may be spared, and byte by byte, where it never is; even if it is not
    HTTP."""
    wire = [CHUNKED, *pieces, b"0\r\n\r\n"]
    whole, _, done = read(*wire)
    single, _, done_single = read(*(bytes([byte]) for byte in b"".join(wire)))
    assert done == done_single
    assert b"".join(whole.chunk_bytes) == b"".join(single.chunk_bytes)
    assert (whole.failure is None) == (single.failure is None)


def test_data_that_looks_like_a_frame_inside_a_frame_is_data() -> None:
    timeline, _, done = read(CHUNKED, chunk(b"a"), b"f\r\n1\r\n2\r\n", b"1\r\n3\r\n", b"abc\r\n0\r\n\r\n")
    assert done
    assert timeline.failure is None
    assert b"".join(timeline.chunk_bytes) == b"a1\r\n2\r\n1\r\n3\r\nabc"


def test_one_entry_per_read_however_many_frames() -> None:
    timeline, _, done = read(
        CHUNKED + chunk(b"a"), chunk(b"b") + chunk(b"c"), chunk(b"d")[:2], b"\nd\r\n", b"0\r\n\r\n"
    )
    assert done
    assert timeline.chunk_bytes == [b"a", b"bc", b"d"]
    assert timeline.chunk_ns == [100, 110, 130]
    assert timeline.coalesced == [False, True, False]
    assert timeline.end_ns == 140


def test_the_last_frame_and_the_end_in_one_read_may_be_two_segments() -> None:
    timeline, _, _ = read(CHUNKED, chunk(b"a") + b"0\r\n\r\n")
    assert timeline.coalesced == [True]


def test_several_frames_in_one_segment_are_not_coalesced() -> None:
    timeline = Timeline(due_ns=0)
    reader = ResponseReader(timeline, several_segments=lambda: False)
    reader.feed(CHUNKED + chunk(b"a") + chunk(b"b"), 100)
    reader.close()
    assert timeline.coalesced == [False]


def test_arrival_stamps_come_before_read_stamps() -> None:
    timeline = Timeline(due_ns=0)
    reader = ResponseReader(timeline)
    reader.feed(CHUNKED, 100, 95)
    reader.feed(chunk(b"a"), 200, 190)
    reader.feed(chunk(b"b"), 300, None)
    reader.feed(b"0\r\n\r\n", 400, 390)
    assert (timeline.first_byte_ns, timeline.end_ns) == (95, 390)
    assert (timeline.chunk_ns, timeline.arrival_ns) == ([200, 300], [190, None])
    assert [timeline.stamp_ns(0), timeline.stamp_ns(1)] == [190, 300]


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    timeline, reader, done = read(b"HTTP/1.1 200 OK\r\n\r\nab", b"c", end=True)
    assert not done
    assert timeline.failure is None
    assert b"".join(timeline.chunk_bytes) == b"abc"
    assert timeline.end_ns == 1_000
    assert not reader.is_reusable


def test_a_connection_the_server_will_close_is_not_kept() -> None:
    _, reader, done = read(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na")
    assert done
    assert not reader.is_reusable


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nleak", b"nonsense", b"\x00"])
def test_what_follows_the_answer_is_not_part_of_it(extra: bytes) -> None:
    timeline, reader, done = read(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na" + extra)
    assert done
    assert timeline.failure is None
    assert timeline.chunk_bytes == [b"a"]
    assert timeline.headers == [("Content-Length", "1")]
    assert not reader.is_reusable


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        CHUNKED + b"zz\r\n",
    ],
)
def test_what_is_no_answer_is_malformed(wire: bytes) -> None:
    timeline, _, done = read(wire)
    assert done
    assert timeline.failure is not None
    assert timeline.failure.kind is FailureKind.MALFORMED


def test_what_came_before_the_fault_stays() -> None:
    timeline, _, _ = read(CHUNKED + chunk(b"kept") + b"zz\r\n")
    assert timeline.failure is not None
    assert timeline.chunk_bytes == [b"kept"]


def test_an_endless_head_is_malformed() -> None:
    timeline, _, done = read(b"HTTP/1.1 200 OK\r\n", *[b"X-Filler: " + b"x" * 1_000 + b"\r\n"] * 100)
    assert done
    assert timeline.failure is not None
    assert timeline.failure.kind is FailureKind.MALFORMED
    assert "head" in timeline.failure.message


def test_an_endless_body_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_reader, "MAX_BODY_BYTES", 10)
    timeline, _, done = read(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 8, b"x" * 8)
    assert done
    assert timeline.failure is not None
    assert timeline.failure.kind is FailureKind.MALFORMED


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_is_whole_with_its_head(status: int) -> None:
    timeline, reader, done = read(b"HTTP/1.1 %d Any\r\n\r\n" % status)
    assert done
    assert timeline.failure is None
    assert timeline.chunk_bytes == []
    assert reader.is_reusable
