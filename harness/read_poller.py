"""Which sockets can be read: at once when there is little to read, every millisecond when there is much."""

from __future__ import annotations

import asyncio
import select
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol

from llmbench.harness.alarm import create_alarm

# Of 25,600 chunks a second (`tests/benchmarks/load_generator.py`, on a busy 2-core machine), a million cost the load
# generator 28 s of processor time when it woke up for each, 19 s when it rested for half a millisecond and 16 s for a
# whole one; and each wake-up disturbed the sender on the other core: without them the stamps' ITL error p99 halved.
REST_NS = 1_000_000
MIN_READS_PER_S = 5_000
# Two chunks of one stream must not fall into one rest: on average they are to be this many rests apart.
MIN_RESTS_APART = 5
WINDOW_NS = 10_000_000
# When more than this share of the reads of a window did bring several segments, nothing rests for a while.
MAX_COALESCED_SHARE = 0.01
PROMPT_NS = 1_000_000_000


if sys.platform == "linux":
    _EDGES = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


class ReadPoller(Protocol):
    """Calls back whenever a file descriptor has something to read."""

    def add(self, fd: int, callback: Callable[[], None]) -> None: ...

    def remove(self, fd: int) -> None: ...

    def again(self, fd: int) -> None:
        """Call back even if nothing more arrives: a read has left something behind."""
        ...

    def note_coalesced(self) -> None:
        """Several segments were read as one, which resting may have caused."""
        ...

    def close(self) -> None: ...


def create_read_poller(
    loop: asyncio.AbstractEventLoop, may_rest: bool, before_read: Callable[[], None] | None = None
) -> ReadPoller:
    """`may_rest` where it does no harm to read late, because something else stamps the chunks; then `before_read` is
    called before each read, and may take its time."""
    if may_rest and sys.platform == "linux":
        return RestingPoller(loop, before_read)
    return LoopPoller(loop)


class LoopPoller:
    """The event loop's own polling, for every file descriptor by itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        self._loop.add_reader(fd, callback)

    def remove(self, fd: int) -> None:
        self._loop.remove_reader(fd)

    def again(self, fd: int) -> None:
        pass  # it does so anyway

    def note_coalesced(self) -> None:
        pass

    def close(self) -> None:
        pass


class RestingPoller:
    """An epoll set of its own, which the event loop watches as one file descriptor, or not while the poller rests.

    Only reading rests: what is due to be sent has its own alarm. The set is edge-triggered: what arrives is told once,
    and the kernel is spared to ask every socket a second time whether it has been emptied.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, before_read: Callable[[], None] | None = None) -> None:
        self._loop = loop
        self._before_read = before_read
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._alarm = create_alarm(loop, self._serve)
        self._rests = False
        self._num_reads = 0
        self._num_coalesced = 0
        self._window_ns = perf_counter_ns()
        self._prompt_until_ns = 0
        loop.add_reader(self._epoll.fileno(), self._serve)

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        self._callbacks[fd] = callback
        self._epoll.register(fd, _EDGES)

    def remove(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def again(self, fd: int) -> None:
        if fd in self._callbacks:
            self._epoll.modify(fd, _EDGES)

    def note_coalesced(self) -> None:
        self._num_coalesced += 1

    def close(self) -> None:
        self._alarm.close()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _serve(self) -> None:
        callbacks, before_read = self._callbacks, self._before_read
        ready = self._epoll.poll(0)
        try:
            for fd, events in ready:
                # Gone if an earlier one of them closed it; if its number was given anew, a read finds nothing.
                callback = callbacks.get(fd)
                if callback is not None:
                    if before_read is not None:
                        before_read()
                    callback()
                    if events != select.EPOLLIN:  # the end of the stream stands behind what was read
                        self.again(fd)
        finally:
            self._num_reads += len(ready)
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
            and reads_per_rest * MIN_RESTS_APART <= len(self._callbacks)
            and now_ns >= self._prompt_until_ns
        )
        if rests and not self._rests:
            self._loop.remove_reader(self._epoll.fileno())
        elif self._rests and not rests:
            self._loop.add_reader(self._epoll.fileno(), self._serve)
        self._rests = rests
        self._num_reads, self._num_coalesced, self._window_ns = 0, 0, now_ns
