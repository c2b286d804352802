"""Sockets read by the compiled reader, which keeps whole HTTP chunks to itself and hands over any other read."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from llmbench.harness.chunk_log import ChunkLog
from llmbench.harness.errors import ConfigError
from llmbench.harness.read_poller import Readable
from llmbench.harness.wall_offset import MAX_WAIT_NS, WallOffset

if TYPE_CHECKING:
    from types import ModuleType

    from llmbench.harness import native_reader

CHOICE = "LLMBENCH_READER"
# What harness/csrc/native_reader.c calls by this name.
INTERFACE = 2


def chosen_reader() -> ModuleType | None:
    """The compiled reader; None where none was built, or `LLMBENCH_READER=python` wants none.

    Raises ConfigError where `LLMBENCH_READER=native` wants one that was not built, and for any other value.
    """
    choice = os.environ.get(CHOICE, "")
    if choice not in ("", "native", "python"):
        raise ConfigError(
            f"{CHOICE} is {choice!r}; it takes native or python, and unset means native where it was built."
        )
    if choice == "python":
        return None
    try:
        from llmbench.harness import native_reader

        problem = "it was built from other sources"
        if getattr(native_reader, "INTERFACE", None) == INTERFACE:
            return native_reader
    except ImportError as error:
        problem = str(error)
    if choice == "native":
        raise ConfigError(
            f"{CHOICE} is native, and the compiled reader cannot be used ({problem}): install llmbench anew, where "
            "there is a C compiler, on Linux."
        )
    return None


class NativeReads:
    """`before_read` is called before a socket is read, and again once the instant that it gave has passed."""

    def __init__(self, reader: ModuleType, wall_offset: WallOffset, before_read: Callable[[], int]) -> None:
        self._wall_offset = wall_offset
        self._before_read = before_read
        self._set: native_reader.ReadSet = reader.ReadSet()
        self.fileno, self.poll, self.again = self._set.fileno, self._set.poll, self._set.again
        self._fds: set[int] = set()

    def __len__(self) -> int:
        return len(self._fds)

    def add(self, fd: int, readable: Readable) -> None:
        self._set.add(fd, readable)
        self._fds.add(fd)

    def remove(self, fd: int) -> None:
        self._fds.discard(fd)
        self._set.remove(fd)

    def expect(self, fd: int, log: ChunkLog | None) -> None:
        self._set.expect(fd, cast("native_reader.ChunkLog | None", log))

    def drain(self) -> None:
        drain, before_read, wall_offset = self._set.drain, self._before_read, self._wall_offset
        while True:
            read = drain(wall_offset.offset_ns, MAX_WAIT_NS, before_read())
            if read is None:
                return
            if isinstance(read, tuple):
                readable, data, read_ns, wall_ns, num_reads = read
                if isinstance(data, int):
                    readable.on_read_error(OSError(data, os.strerror(data)))
                else:
                    readable.on_read(data, read_ns, wall_ns, num_reads)

    def close(self) -> None:
        self._set.close()
