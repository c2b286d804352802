"""The packet clock: arrivals from segments in any order, and answers cut again where their segments ended."""

import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines.wire import Timeline
from llmbench.harness.packet_clock import Flow, PacketClock, RawReader, in_order
from llmbench.harness.packet_ring import Segments, flow_key
from llmbench.harness.wall_offset import WallOffset

PORTS = (40_000, 8_000)
KEY = flow_key(*PORTS)
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def ints(values: list[int]) -> Any:
    return np.array(values, np.int64)


class FakeRing:
    """Hands out the segments it is given, as (flow, seq, num_bytes, is_syn, wall_ns)."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, bool, int]] = []

    def take(self) -> Segments:
        rows, self.rows = self.rows, []
        flow, seq, num_bytes, is_syn, wall_ns = zip(*rows, strict=True) if rows else ((),) * 5
        return Segments(ints(flow), ints(seq), ints(num_bytes), np.array(is_syn, bool), ints(wall_ns))  # type: ignore[arg-type]


def clock_and_ring() -> tuple[PacketClock, FakeRing]:
    ring, offset = FakeRing(), WallOffset()
    offset.offset_ns = 1_000_000  # wall = perf + 1 ms
    return PacketClock(ring, offset), ring  # type: ignore[arg-type]


def reference_arrivals(start: int, segments: list[tuple[int, int, int]]) -> dict[int, int]:
    """byte -> when it and all before it had arrived, from (begin, end, stamp) in arrival order, byte by byte."""
    here: set[int] = set()
    arrived: dict[int, int] = {}
    position, latest = start, 0
    for begin, end, stamp in segments:
        here.update(range(begin, end))
        latest = max(latest, stamp)
        while position in here:
            arrived[position] = latest
            position += 1
    return arrived


@given(st.integers(0, 2**33), st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_in_order_agrees_with_counting_bytes(start: int, sizes: list[int], data: st.DataObject) -> None:
    edges = [start, *(start + int(edge) for edge in np.cumsum(sizes))]
    segments = list(itertools.pairwise(edges))
    segments += data.draw(st.lists(st.sampled_from(segments), max_size=4))  # sent again
    segments = data.draw(st.permutations(segments))
    stamped = [(begin, end, 10 * index) for index, (begin, end) in enumerate(segments)]
    arrivals = in_order(start, *(ints(list(column)) for column in zip(*stamped, strict=True)))
    expected = reference_arrivals(start, stamped)
    got = {}
    begin = start
    for end, stamp in zip(arrivals.end.tolist(), arrivals.arrival_ns.tolist(), strict=True):
        got.update(dict.fromkeys(range(begin, end), stamp))
        begin = end
    assert got == expected
    assert got.keys() == set(range(start, edges[-1]))


def test_a_gap_is_no_arrival() -> None:
    flow = Flow()
    flow.restart(100)
    flow.add(ints([100, 120]), ints([10, 10]), ints([1, 2]))
    assert flow.take(30) is None
    assert flow.num_taken == 30


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 2**20), min_size=1, max_size=30))
def test_sequence_numbers_wrap(first_seq: int, sizes: list[int]) -> None:
    flow = Flow()
    flow.restart(first_seq)
    flow.num_taken = 5 * 2**32  # a long life behind it
    ends = np.cumsum(sizes)
    seq = (first_seq + flow.num_taken + ends - sizes) % 2**32
    flow.add(ints(seq.tolist()), ints(sizes), ints(list(range(len(sizes)))))
    arrivals = flow.take(int(ends[-1]))
    assert arrivals is not None
    assert (arrivals.end - 5 * 2**32).tolist() == ends.tolist()
    assert arrivals.arrival_ns.tolist() == list(range(len(sizes)))


def answer(*segments: bytes, reads: list[int]) -> tuple[RawReader, Timeline]:
    """A reader that got `segments` in reads of so many segments each, at 1_000, 2_000, … µs."""
    timeline = Timeline(due_ns=0)
    reader = RawReader(timeline)
    remaining = list(segments)
    for index, count in enumerate(reads):
        data, remaining = b"".join(remaining[:count]), remaining[count:]
        reader.feed(data, 1_000_000 * (index + 1), 1_000_000 * (index + 1) - 500)
    assert not remaining
    return reader, timeline


CHUNKS = [HEAD, b"1\r\na\r\n", b"1\r\nb\r\n1\r\nc\r\n", b"1\r\nd\r\n", b"0\r\n\r\n"]


def test_an_answer_gets_an_entry_per_segment() -> None:
    clock, ring = clock_and_ring()
    flow = clock.watch(*PORTS)
    reader, timeline = answer(*CHUNKS, reads=[1, 4])
    assert timeline.coalesced == [True]
    ring.rows.append((KEY, 999, 0, True, 0))
    seq = 1_000
    for index, segment in enumerate(CHUNKS):
        ring.rows.append((KEY, seq, len(segment), False, 1_000_000 + 10 * (index + 1)))
        ring.rows.append((KEY + 1, seq, len(segment), False, 1_000_000))  # another connection's
        seq += len(segment)
    clock.finish(flow, reader)
    assert timeline.chunk_bytes == [b"a", b"bc", b"d"]
    assert timeline.arrival_ns == [20, 30, 40]
    assert timeline.chunk_ns == [2_000_000] * 3
    assert timeline.coalesced == [False] * 3
    assert (timeline.first_byte_ns, timeline.end_ns, timeline.status) == (10, 50, 200)


def test_the_opening_may_be_seen_before_the_connection_is_watched() -> None:
    clock, ring = clock_and_ring()
    ring.rows.append((KEY, 999, 0, True, 0))
    clock.poll()
    flow = clock.watch(*PORTS)
    assert flow.first_seq == 1_000


def test_segments_of_an_older_connection_on_the_same_ports_are_not_mixed_in() -> None:
    clock, ring = clock_and_ring()
    flow = clock.watch(*PORTS)
    ring.rows += [(KEY, 1_000, 50, False, 1_000_000), (KEY, 4_999, 0, True, 1_000_010)]
    reader, timeline = answer(*CHUNKS, reads=[5])
    ring.rows.append((KEY, 5_000, len(b"".join(CHUNKS)), False, 1_000_020))
    clock.finish(flow, reader)
    assert timeline.arrival_ns == [20]


def test_an_answer_read_in_time_is_left_alone_and_the_next_one_found() -> None:
    clock, ring = clock_and_ring()
    flow = clock.watch(*PORTS)
    ring.rows.append((KEY, 999, 0, True, 0))
    reader, timeline = answer(*CHUNKS[:2], CHUNKS[3], CHUNKS[4], reads=[1, 1, 1, 1])
    before = list(timeline.arrival_ns)
    clock.finish(flow, reader)
    assert timeline.arrival_ns == before
    seq = 1_000 + sum(map(len, reader.raw))
    for index, segment in enumerate(CHUNKS):
        ring.rows.append((KEY, seq, len(segment), False, 1_000_000 + index))
        seq += len(segment)
    later, timeline = answer(*CHUNKS, reads=[5])
    clock.finish(flow, later)
    assert timeline.arrival_ns == [1, 2, 3]


def test_what_the_ring_missed_stays_as_it_was_read() -> None:
    clock, ring = clock_and_ring()
    flow = clock.watch(*PORTS)
    ring.rows.append((KEY, 999, 0, True, 0))
    ring.rows.append((KEY, 1_000, len(HEAD), False, 1_000_000))
    reader, timeline = answer(*CHUNKS, reads=[5])
    clock.finish(flow, reader)
    assert timeline.chunk_bytes == [b"abcd"]
    assert timeline.coalesced == [True]


def test_stamps_after_the_read_are_not_believed() -> None:
    clock, ring = clock_and_ring()
    flow = clock.watch(*PORTS)
    ring.rows.append((KEY, 999, 0, True, 0))
    ring.rows.append((KEY, 1_000, len(b"".join(CHUNKS)), False, 10**12))
    reader, timeline = answer(*CHUNKS, reads=[5])
    clock.finish(flow, reader)
    assert timeline.coalesced == [True]
