"""The packet clock: when each segment of an answer arrived, however late and however many at once it was read.

A read that comes late finds several segments in the socket and gets one stamp for all of them. The ring has a stamp for
each: the raw bytes of such an answer are cut again where its segments ended, and read a second time.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from llmbench.engines.wire import Endpoint, Timeline
from llmbench.harness.errors import ConfigError
from llmbench.harness.packet_ring import Ints, PacketRing, Segments, flow_key
from llmbench.harness.response_reader import ResponseReader
from llmbench.harness.wall_offset import MAX_AHEAD_NS, WallOffset

_NOT_SEEN = "clock: packet sees HTTP over plain TCP only, and on Linux only; ask for clock: auto."
_NOT_ALLOWED = (
    "clock: packet needs the capability CAP_NET_RAW; run as root or in a container with --cap-add=NET_RAW, or ask for "
    "clock: kernel."
)


def check_packet_clock() -> None:
    """Raises ConfigError where this process may not look at packets."""
    if sys.platform != "linux":
        raise ConfigError(_NOT_SEEN)
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM).close()
    except PermissionError:
        raise ConfigError(_NOT_ALLOWED) from None


def create_packet_clock(endpoints: Iterable[Endpoint], wall_offset: WallOffset | None) -> PacketClock:
    """A clock for what `endpoints` answer; ConfigError where nothing of it can be seen."""
    if wall_offset is None:
        raise ConfigError(_NOT_SEEN)
    try:
        return PacketClock(PacketRing(endpoint.port for endpoint in endpoints), wall_offset)
    except PermissionError:
        raise ConfigError(_NOT_ALLOWED) from None


class RawReader(ResponseReader):
    """A reader that also keeps the raw bytes, to be read again."""

    __slots__ = ("raw", "read_ns")

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(timeline)
        self.raw: list[bytes] = []
        self.read_ns: list[int] = []

    @property
    def log(self) -> None:
        """None: every read is wanted as it came."""

    def feed(self, data: bytes, read_ns: int, arrival_ns: int | None = None) -> bool:
        self.raw.append(data)
        self.read_ns.append(read_ns)
        return super().feed(data, read_ns, arrival_ns)


class Arrivals(NamedTuple):
    """`end[i]` bytes of a connection's stream, and all before them, had arrived at `arrival_ns[i]`. Both increase."""

    end: Ints
    arrival_ns: Ints


class Flow:
    """The segments of one connection that have not been asked for yet. `num_taken` bytes of it have been."""

    def __init__(self) -> None:
        self.first_seq: int | None = None
        self.num_taken = 0
        self._parts: list[tuple[Ints, Ints, Ints]] = []

    def add(self, seq: Ints, num_bytes: Ints, arrival_ns: Ints) -> None:
        """Segments in the order in which they arrived."""
        self._parts.append((seq, num_bytes, arrival_ns))

    def restart(self, first_seq: int) -> None:
        """The connection begins; what was added before belonged to another on the same ports."""
        self.first_seq = first_seq
        self._parts.clear()

    def skip(self, num_bytes: int) -> None:
        """The next `num_bytes` bytes are of no interest."""
        self.num_taken += num_bytes
        self._parts.clear()

    def take(self, num_bytes: int) -> Arrivals | None:
        """The arrivals that make up the next `num_bytes` bytes; None when the ring has not seen all of them."""
        parts, self._parts = self._parts, []
        start, self.num_taken = self.num_taken, self.num_taken + num_bytes
        if self.first_seq is None or not parts:
            return None
        seq, length, arrival_ns = (np.concatenate(column) for column in zip(*parts, strict=True))
        # Sequence numbers wrap at 32 bits; they are taken as the nearest to where this answer began.
        begin = start + _signed_32(seq - self.first_seq - start)
        wanted = (length > 0) & (begin + length > start) & (begin < start + num_bytes)
        arrivals = in_order(start, begin[wanted], (begin + length)[wanted], arrival_ns[wanted])
        if not len(arrivals.end) or arrivals.end[-1] < start + num_bytes:
            return None
        return arrivals


def in_order(start: int, begin: Ints, end: Ints, arrival_ns: Ints) -> Arrivals:
    """How far the stream had got, without a gap since `start`, each time that a segment took it further."""
    if len(begin) and begin[0] == start and (begin[1:] == end[:-1]).all():
        return Arrivals(end, np.maximum.accumulate(arrival_ns))
    reached = start
    ahead: dict[int, int] = {}
    ends: list[int] = []
    stamps: list[int] = []
    for first, last, stamp in zip(begin.tolist(), end.tolist(), arrival_ns.tolist(), strict=True):
        ahead[first] = max(last, ahead.get(first, last))
        before = reached
        while usable := [place for place in ahead if place <= reached]:
            reached = max(reached, *(ahead.pop(place) for place in usable))
        if reached > before:
            ends.append(reached)
            stamps.append(stamp)
    return Arrivals(np.array(ends, np.int64), np.maximum.accumulate(np.array(stamps, np.int64)))


class PacketClock:
    """Watches the connections of one load in `ring`, which it closes in the end."""

    def __init__(self, ring: PacketRing, wall_offset: WallOffset) -> None:
        self._ring = ring
        self._wall_offset = wall_offset
        self._flows: dict[int, Flow] = {}
        # Of connections whose opening was seen before they were watched.
        self._first_seqs: dict[int, int] = {}

    def watch(self, local_port: int, remote_port: int) -> Flow:
        """A connection that has just been made."""
        flow = Flow()
        key = flow_key(local_port, remote_port)
        flow.first_seq = self._first_seqs.pop(key, None)
        self._flows[key] = flow
        return flow

    def poll(self) -> None:
        """Empty the ring; to be called often enough that it never fills."""
        segments = self._ring.take()
        if not len(segments.flow):
            return
        order = np.argsort(segments.flow, kind="stable")
        flows, starts = np.unique(segments.flow[order], return_index=True)
        edges = [*starts.tolist(), len(order)]
        for key, begin, end in zip(flows.tolist(), edges, edges[1:], strict=False):
            self._deliver(key, segments, order[begin:end])

    def finish(self, flow: Flow, reader: RawReader) -> None:
        """An answer is over: where reads coalesced, its timeline gets an entry for every segment instead.

        When the ring did not see all of them, the timeline stays as the reads left it. To be called once for each
        answer of a connection, in their order.
        """
        if not any(reader.timeline.coalesced):
            flow.skip(sum(map(len, reader.raw)))
            return
        self.poll()
        data = b"".join(reader.raw)
        start = flow.num_taken
        arrivals = flow.take(len(data))
        if arrivals is None:
            return
        ends = np.minimum(arrivals.end - start, len(data))
        read_ends = np.cumsum([len(part) for part in reader.raw])
        read_ns = np.array(reader.read_ns)[np.searchsorted(read_ends, ends)]
        # A segment cannot have come after it was read: then the wall clock was set in between.
        if (arrivals.arrival_ns > read_ns + MAX_AHEAD_NS).any():
            return
        _reread(reader.timeline, data, ends.tolist(), read_ns.tolist(), arrivals.arrival_ns.tolist())

    def close(self) -> int:
        """Stop; the number of segments that found the ring full."""
        num_dropped = self._ring.num_dropped()
        self._ring.close()
        return num_dropped

    def _deliver(self, key: int, segments: Segments, chosen: Ints) -> None:
        flow = self._flows.get(key)
        opened = np.flatnonzero(segments.is_syn[chosen])
        if opened.size:
            last = int(opened[-1])
            first_seq = int(segments.seq[chosen[last]]) + 1  # the SYN itself counts as one
            chosen = chosen[last + 1 :]
            if flow is None:
                self._first_seqs[key] = first_seq
            else:
                flow.restart(first_seq)
        if flow is not None and chosen.size:
            arrival_ns = segments.wall_ns[chosen] - self._wall_offset.offset_ns
            flow.add(segments.seq[chosen], segments.num_bytes[chosen], arrival_ns)


def _reread(timeline: Timeline, data: bytes, ends: list[int], read_ns: list[int], arrival_ns: list[int]) -> None:
    fresh = Timeline(due_ns=timeline.due_ns)
    reader = ResponseReader(fresh, _one_segment)
    begin = 0
    for end, read, arrival in zip(ends, read_ns, arrival_ns, strict=True):
        done = reader.feed(data[begin:end], read, min(arrival, read))
        begin = end
        if done:
            break
    reader.close()
    if b"".join(fresh.chunk_bytes) != b"".join(timeline.chunk_bytes):
        return  # one of the readings stopped early, at a limit
    timeline.first_byte_ns = fresh.first_byte_ns
    timeline.chunk_ns, timeline.chunk_bytes = fresh.chunk_ns, fresh.chunk_bytes
    timeline.arrival_ns, timeline.coalesced = fresh.arrival_ns, fresh.coalesced
    if timeline.failure is None and fresh.end_ns is not None:
        timeline.end_ns = fresh.end_ns


def _one_segment() -> bool:
    return False


def _signed_32(values: Ints) -> Ints:
    return (values + 2**31) % 2**32 - 2**31
