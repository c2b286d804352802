"""Waking up at an instant: an event loop's own timers count milliseconds, and arrivals need microseconds."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Protocol

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = os.O_NONBLOCK, os.O_CLOEXEC, 1


class Alarm(Protocol):
    """Calls back once at an instant of `time.perf_counter_ns`, never before it."""

    def set(self, t_ns: int) -> None:
        """The next callback comes at `t_ns`, or at once where that has passed; an earlier wish is dropped."""
        ...

    def close(self) -> None: ...


def create_alarm(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Alarm:
    """The most precise alarm this platform has.

    On a busy 2-core machine (`tests/benchmarks/alarm.py`) the median alarm of uvloop's timer rang 163 µs late and a
    third of them too early; a timerfd rang 65 µs late; a timerfd set a little early, and `wait_until`, 9 µs late.
    """
    if sys.platform == "linux":
        return TimerFdAlarm(loop, callback)
    return SpinningAlarm(loop, callback)


def wait_until(t_ns: int) -> None:
    """Spend processor time until `t_ns`: for the last microseconds, which no timer hits."""
    while perf_counter_ns() < t_ns:
        pass


class _TimeSpec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("it_interval", _TimeSpec), ("it_value", _TimeSpec))


class TimerFdAlarm:
    """A kernel timer as a file descriptor: on Linux `perf_counter_ns` reads CLOCK_MONOTONIC, and so does it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        # Made once, for an alarm is set a thousand times a second.
        spec = _TimerSpec()
        self._value = spec.it_value
        self._settime = partial(libc.timerfd_settime, self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None)
        loop.add_reader(self._fd, self._ring)

    def set(self, t_ns: int) -> None:
        # An absolute time that has passed expires at once; zero would disarm.
        self._value.tv_sec, self._value.tv_nsec = divmod(max(t_ns, 1), 1_000_000_000)
        self._settime()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set anew since it expired
            return
        self._callback()


class SpinningAlarm:
    """The loop's timer to within its resolution, then the clock read over and over."""

    SPIN_NS = 1_500_000

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._timer: asyncio.TimerHandle | None = None

    def set(self, t_ns: int) -> None:
        self.close()
        wait_ns = t_ns - perf_counter_ns() - self.SPIN_NS
        self._timer = self._loop.call_later(max(wait_ns, 0) / 1e9, self._spin, t_ns)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _spin(self, t_ns: int) -> None:
        wait_until(t_ns)
        self._callback()
