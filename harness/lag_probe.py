"""How late the event loop is, asked at even intervals while a load runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

from llmbench.harness.alarm import create_alarm
from llmbench.harness.lag_samples import LagSamples

INTERVAL_NS = 20_000_000


class LagProbe:
    """Sets an alarm every 20 ms and keeps how late each rang in `lags`; `on_sample` is called at each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_sample: Callable[[], None]) -> None:
        self._on_sample = on_sample
        self.lags = LagSamples()
        self._alarm = create_alarm(loop, self._ring)
        self._due_ns = perf_counter_ns() + INTERVAL_NS
        self._alarm.set(self._due_ns)

    def close(self) -> None:
        self._alarm.close()

    def _ring(self) -> None:
        now_ns = perf_counter_ns()
        self.lags.add_one(now_ns - self._due_ns)
        self._on_sample()
        # From now, not from when it was due: after a long stall one sample tells of it, and no burst of them follows.
        self._due_ns = now_ns + INTERVAL_NS
        self._alarm.set(self._due_ns)
