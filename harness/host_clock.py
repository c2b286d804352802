"""How another host's monotonic clock relates to ours, asked over a network that takes its time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import NamedTuple

from llmbench.engines.wire import Timeline

NUM_PROBES = 30
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ClockOffset(NamedTuple):
    """Their clock less ours, right to `error_ns`."""

    offset_ns: int
    error_ns: int


def boot_id() -> str | None:
    """What all processes have in common that share one monotonic clock; None where the system does not say."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else None


def measured_offset(ask: Callable[[], int], now_ns: Callable[[], int] = perf_counter_ns) -> ClockOffset:
    """The offset of the clock that `ask` reads, by the quickest of several round trips.

    Their reading lies somewhere between asking and the reply, so the middle is right to half of the round trip.
    Source: F. Cristian, Distributed Computing 3 (1989) 146.
    """
    best: ClockOffset | None = None
    for _ in range(NUM_PROBES):
        before_ns = now_ns()
        theirs_ns = ask()
        after_ns = now_ns()
        error_ns = (after_ns - before_ns + 1) // 2
        if best is None or error_ns < best.error_ns:
            best = ClockOffset(theirs_ns - (before_ns + after_ns) // 2, error_ns)
    assert best is not None
    return best


def shift(timeline: Timeline, by_ns: int) -> None:
    """Move every stamp of `timeline`, in place, onto a clock that is ahead by `by_ns`."""
    timeline.due_ns += by_ns
    for name in ("first_due_ns", "begun_ns", "connect_ns", "sent_ns", "first_byte_ns", "end_ns", "retry_due_ns"):
        stamp_ns = getattr(timeline, name)
        if stamp_ns is not None:
            setattr(timeline, name, stamp_ns + by_ns)
    timeline.chunk_ns = [stamp_ns + by_ns for stamp_ns in timeline.chunk_ns]
    timeline.arrival_ns = [None if stamp_ns is None else stamp_ns + by_ns for stamp_ns in timeline.arrival_ns]
