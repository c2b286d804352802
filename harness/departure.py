"""Requests that leave when they are due, one right after the other, with next to nothing between two of them."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple

from llmbench.harness.alarm import wait_until

if TYPE_CHECKING:
    from llmbench.harness.transports import Ready

# What it takes to take note of one that has been sent, and to come back: one that is due sooner is sent with it.
CLOSE_NS = 100_000

# (fd, payload, due_ns) in the order in which they are due.
Outbound = tuple[int, bytes, int]


class Departure(NamedTuple):
    """How one of them left: bytes that its socket took (0 where it takes none now, -1 where it refuses), and the times
    just before and after."""

    num_sent: int
    began_ns: int
    sent_ns: int


SendDue = Callable[[Sequence[Outbound]], list[tuple[int, int, int]]]


def departing(ready: list[tuple[int, int, Ready]], now_ns: int, until_ns: int) -> list[tuple[Ready, Outbound]]:
    """Takes from the heap `ready`, by due time, what is to leave in one go: its first, and what follows it closely.

    Nothing that is due after `until_ns`, except for the first. Empty where the first is not `outbound`.
    """
    going: list[tuple[Ready, Outbound]] = []
    last_ns = until_ns
    while ready and ready[0][0] <= last_ns:
        due_ns, _, request = ready[0]
        outbound = request.outbound()
        if outbound is None:
            break
        heapq.heappop(ready)
        going.append((request, (*outbound, due_ns)))
        last_ns = min(max(due_ns, now_ns) + CLOSE_NS, until_ns)
    return going


def send_due(requests: Sequence[Outbound]) -> list[tuple[int, int, int]]:
    """Send each when it is due, as the compiled reader's function of this name does."""
    gone: list[tuple[int, int, int]] = []
    for fd, payload, due_ns in requests:
        wait_until(due_ns)
        began_ns = perf_counter_ns()
        try:
            num_sent = os.write(fd, payload)
        except (BlockingIOError, InterruptedError):
            num_sent = 0
        except OSError:
            num_sent = -1
        gone.append(Departure(num_sent, began_ns, perf_counter_ns()))
    return gone
