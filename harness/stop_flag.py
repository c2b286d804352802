"""The wish to end a load before its time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class StopFlag:
    """Set once, from any thread or signal handler; whoever waits on the watched file descriptor wakes up."""

    def __init__(self) -> None:
        self._is_set = False
        # A tuple that is replaced, never changed: `set` may run between any two bytecodes of `watched`.
        self._write_fds: tuple[int, ...] = ()

    def set(self) -> None:
        self._is_set = True
        for fd in self._write_fds:
            with contextlib.suppress(OSError):  # a full pipe wakes its reader as well
                os.write(fd, b"\0")

    def is_set(self) -> bool:
        return self._is_set

    @contextlib.contextmanager
    def watched(self) -> Iterator[int]:
        """A file descriptor that becomes readable when the flag is set, or is so already."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(write_fd, False)
        self._write_fds = (*self._write_fds, write_fd)
        try:
            if self._is_set:
                os.write(write_fd, b"\0")
            yield read_fd
        finally:
            self._write_fds = tuple(fd for fd in self._write_fds if fd != write_fd)
            os.close(read_fd)
            os.close(write_fd)
