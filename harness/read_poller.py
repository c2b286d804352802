"""Which sockets can be read: at once when there is little to read, every millisecond when there is much."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import Protocol

from llmbench.harness.alarm import create_alarm
from llmbench.harness.chunk_log import ChunkLog

# Of 25,600 chunks a second (`tests/benchmarks/load_generator.py`, on a busy 2-core machine, read in Python), a million
# cost the load generator 28 s of processor time when it woke up for each, 19 s when it rested for half a millisecond
# and 16 s for a whole one; and each wake-up disturbed the sender on the other core: without them the stamps' ITL error
# p99 halved. A loop in C that only calls epoll and recvmsg took 13 s without a rest, and 9.5, 6.6 and 5.9 s with one of
# 0.2, 1 and 2 ms.
REST_NS = 1_000_000
MIN_READS_PER_S = 5_000
# Two chunks of one stream must not fall into one rest: on average they are to be this many rests apart.
MIN_RESTS_APART = 5
WINDOW_NS = 10_000_000
# When more than this share of the reads of a window did bring several segments, nothing rests for a while.
MAX_COALESCED_SHARE = 0.01
PROMPT_NS = 1_000_000_000
# An instant that no run lives to see.
NEVER_NS = 2**62


def nothing_due() -> int:
    """What `before_read` gives where there is nothing to do between reads."""
    return NEVER_NS


class Readable(Protocol):
    """What is told of the reads of one socket: either that it can be read, or what a read has given."""

    def on_readable(self) -> None: ...

    def on_read(self, data: bytes, read_ns: int, wall_ns: int | None, num_reads: int) -> None:
        """`wall_ns` is the kernel's stamp in CLOCK_REALTIME, where it gave one; this was read `num_reads` of it."""
        ...

    def on_read_error(self, error: OSError) -> None: ...


class ReadPoller(Protocol):
    """Reads sockets, or has them read, whenever they have something to read."""

    def add(self, fd: int, readable: Readable) -> None: ...

    def remove(self, fd: int) -> None: ...

    def again(self, fd: int) -> None:
        """Read once more even if nothing more arrives: a read has left something behind."""
        ...

    def expect(self, fd: int, log: ChunkLog | None) -> None:
        """Whole HTTP chunks may go to `log` while it is between frames, untold; with None every read is told."""
        ...

    def note_coalesced(self) -> None:
        """Several segments were read as one, which resting may have caused."""
        ...

    def close(self) -> None: ...


class Reads(Protocol):
    """Sockets that are read all in one go. Its file descriptor can be read while there is something to poll."""

    def fileno(self) -> int: ...

    def __len__(self) -> int: ...

    def add(self, fd: int, readable: Readable) -> None: ...

    def remove(self, fd: int) -> None: ...

    def again(self, fd: int) -> None: ...

    def expect(self, fd: int, log: ChunkLog | None) -> None: ...

    def poll(self) -> int:
        """How many sockets have something to read now."""
        ...

    def drain(self) -> None:
        """Read those."""
        ...

    def close(self) -> None: ...


class LoopPoller:
    """The event loop's own polling, for every file descriptor by itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add(self, fd: int, readable: Readable) -> None:
        self._loop.add_reader(fd, readable.on_readable)

    def remove(self, fd: int) -> None:
        self._loop.remove_reader(fd)

    def again(self, fd: int) -> None:
        pass  # it does so anyway

    def expect(self, fd: int, log: ChunkLog | None) -> None:
        pass

    def note_coalesced(self) -> None:
        pass

    def close(self) -> None:
        pass


class RestingPoller:
    """`reads`, which the event loop watches as one file descriptor, or not while the poller rests.

    For sockets that do no harm when they are read late, because something else stamps what arrives. Only reading rests:
    what is due to be sent has its own alarm.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, reads: Reads) -> None:
        self._loop = loop
        self._reads = reads
        self.add, self.remove, self.again, self.expect = reads.add, reads.remove, reads.again, reads.expect
        self._alarm = create_alarm(loop, self._serve)
        self._rests = False
        self._num_reads = 0
        self._num_coalesced = 0
        self._window_ns = perf_counter_ns()
        self._prompt_until_ns = 0
        loop.add_reader(reads.fileno(), self._serve)

    def note_coalesced(self) -> None:
        self._num_coalesced += 1

    def close(self) -> None:
        self._alarm.close()
        self._loop.remove_reader(self._reads.fileno())
        self._reads.close()

    def _serve(self) -> None:
        num_ready = self._reads.poll()
        try:
            self._reads.drain()
        finally:
            self._num_reads += num_ready
            now_ns = perf_counter_ns()
            if now_ns - self._window_ns >= WINDOW_NS:
                self._choose(now_ns)
            if self._rests:
                self._alarm.set(now_ns + REST_NS)

    def _choose(self, now_ns: int) -> None:
        """Rest or not, by what the last window brought."""
        if self._num_coalesced > MAX_COALESCED_SHARE * self._num_reads:
            self._prompt_until_ns = now_ns + PROMPT_NS
        reads_per_s = self._num_reads * 1e9 / (now_ns - self._window_ns)
        reads_per_rest = reads_per_s * REST_NS / 1e9
        rests = (
            reads_per_s >= MIN_READS_PER_S
            and reads_per_rest * MIN_RESTS_APART <= len(self._reads)
            and now_ns >= self._prompt_until_ns
        )
        if rests and not self._rests:
            self._loop.remove_reader(self._reads.fileno())
        elif self._rests and not rests:
            self._loop.add_reader(self._reads.fileno(), self._serve)
        self._rests = rests
        self._num_reads, self._num_coalesced, self._window_ns = 0, 0, now_ns
