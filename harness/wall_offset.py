"""From the kernel's CLOCK_REALTIME to `time.perf_counter_ns`."""

from __future__ import annotations

import time

# How far a mapped stamp may lie after the read that delivered it before the wall clock must have been set: twice the
# error of one sample, with room for a preemption between two clock reads.
MAX_AHEAD_NS = 50_000
# A segment cannot have waited longer than this in a socket that is being read.
MAX_WAIT_NS = 60_000_000_000


class WallOffset:
    """CLOCK_REALTIME − perf_counter, sampled again and again: the wall clock is slewed and set while a run goes."""

    __slots__ = ("offset_ns",)

    def __init__(self) -> None:
        self.offset_ns = 0
        self.sample()

    def sample(self) -> None:
        """Take the offset anew: the narrowest of a few brackets, good to about 0.1 µs."""
        narrowest_ns: int | None = None
        for _ in range(3):
            before_ns = time.perf_counter_ns()
            wall_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
            after_ns = time.perf_counter_ns()
            if narrowest_ns is None or after_ns - before_ns < narrowest_ns:
                narrowest_ns = after_ns - before_ns
                self.offset_ns = wall_ns - (before_ns + after_ns) // 2

    def arrival_ns(self, wall_ns: int, read_ns: int) -> int | None:
        """A kernel's stamp on the clock of its read; None when it lies after that read, or too long before it."""
        arrival_ns = wall_ns - self.offset_ns
        if 0 <= read_ns - arrival_ns <= MAX_WAIT_NS:
            return arrival_ns
        if read_ns < arrival_ns <= read_ns + MAX_AHEAD_NS:
            return read_ns
        self.sample()
        return None
