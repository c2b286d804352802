"""A deadline to wait for beside sockets, finer than the whole milliseconds that epoll and event loops offer."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import sys
import time

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_TIMER_ABSTIME = 1


class _TimerSpec(ctypes.Structure):
    # struct itimerspec: the interval (0: fire once), then the deadline, each in seconds and nanoseconds.
    _fields_ = tuple((name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns"))


class Timer:
    """Wakes `select` of its selector at a time of `perf_counter_ns`; a timerfd on Linux, a timeout elsewhere."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._fd = -1
        self._armed_ns: int | None = None
        if sys.platform == "linux":
            # os.timerfd_create comes with Python 3.13 only.
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._spec = _TimerSpec()
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK)
            if self._fd >= 0:
                selector.register(self._fd, selectors.EVENT_READ, self)

    def select(self, due_ns: int | None) -> list[tuple[selectors.SelectorKey, int]]:
        """What the selector has to say, at the latest at `due_ns`; None waits without end."""
        if self._fd < 0:
            return self._selector.select(None if due_ns is None else max(0, due_ns - time.perf_counter_ns()) / 1e9)
        if due_ns is not None and due_ns != self._armed_ns:
            self._spec.value_s, self._spec.value_ns = divmod(max(due_ns, 1), 1_000_000_000)
            self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None)
            self._armed_ns = due_ns
        return self._selector.select(None)

    def disarm(self) -> None:
        """Take note that the timer has fired: it stays readable until it is read."""
        self._armed_ns = None
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        if self._fd >= 0:
            self._selector.unregister(self._fd)
            os.close(self._fd)
            self._fd = -1
