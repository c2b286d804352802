"""How late the event loop is, asked at even intervals while a load runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter_ns

import numpy as np

from llmbench.harness.alarm import create_alarm
from llmbench.results.manifest import LagManifest

INTERVAL_NS = 20_000_000


class LagProbe:
    """Sets an alarm every 20 ms and keeps how late each rang; `on_sample` is called at each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_sample: Callable[[], None]) -> None:
        self._on_sample = on_sample
        self._lags_ns: list[int] = []
        self._alarm = create_alarm(loop, self._ring)
        self._due_ns = perf_counter_ns() + INTERVAL_NS
        self._alarm.set(self._due_ns)

    def close(self) -> LagManifest:
        """Stop, and say what was seen."""
        self._alarm.close()
        return lag_manifest(self._lags_ns)

    def _ring(self) -> None:
        now_ns = perf_counter_ns()
        self._lags_ns.append(now_ns - self._due_ns)
        self._on_sample()
        # From now, not from when it was due: after a long stall one sample tells of it, and no burst of them follows.
        self._due_ns = now_ns + INTERVAL_NS
        self._alarm.set(self._due_ns)


def lag_manifest(lags_ns: Sequence[int]) -> LagManifest:
    """The quantiles of `lags_ns`, each a value that occurred; None where there are none."""
    if not len(lags_ns):
        return LagManifest(n=0, p50_ns=None, p99_ns=None, max_ns=None)
    p50, p99, top = np.quantile(np.asarray(lags_ns), (0.5, 0.99, 1.0), method="inverted_cdf")
    return LagManifest(n=len(lags_ns), p50_ns=int(p50), p99_ns=int(p99), max_ns=int(top))
