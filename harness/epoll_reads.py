"""Sockets read in Python, as epoll tells of them."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable

from llmbench.harness.chunk_log import ChunkLog
from llmbench.harness.read_poller import Readable

if sys.platform == "linux":
    _EDGES = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


class EpollReads:
    """An edge-triggered epoll set: what arrives is told once, and the kernel is spared to ask every socket a second
    time whether it has been emptied. `before_read` is called before each read."""

    def __init__(self, before_read: Callable[[], int]) -> None:
        self._before_read = before_read
        self._epoll = select.epoll()
        self._readables: dict[int, Readable] = {}
        self._ready: list[tuple[int, int]] = []

    def fileno(self) -> int:
        return self._epoll.fileno()

    def __len__(self) -> int:
        return len(self._readables)

    def add(self, fd: int, readable: Readable) -> None:
        self._readables[fd] = readable
        self._epoll.register(fd, _EDGES)

    def remove(self, fd: int) -> None:
        if self._readables.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def again(self, fd: int) -> None:
        if fd in self._readables:
            self._epoll.modify(fd, _EDGES)

    def expect(self, fd: int, log: ChunkLog | None) -> None:
        pass  # every read is told

    def poll(self) -> int:
        self._ready = self._epoll.poll(0)
        return len(self._ready)

    def drain(self) -> None:
        readables, before_read = self._readables, self._before_read
        for fd, events in self._ready:
            # Gone if an earlier one of them closed it; if its number was given anew, a read finds nothing.
            readable = readables.get(fd)
            if readable is not None:
                before_read()
                readable.on_readable()
                if events != select.EPOLLIN:  # the end of the stream stands behind what was read
                    self.again(fd)

    def close(self) -> None:
        self._epoll.close()
