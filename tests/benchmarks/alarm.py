"""How late each kind of alarm rings, one every 5 ms or so: `python tests/benchmarks/alarm.py`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from time import perf_counter_ns

import numpy as np
import uvloop

from llmbench.harness.alarm import Alarm, SpinningAlarm, TimerFdAlarm, wait_until

NUM_ALARMS = 1_000
# From the kernel's timer to Python code on an idle core, as a rule.
EARLY_NS = 60_000


class TimerAlarm:
    """The event loop's own timer, as it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop, self._callback = loop, callback

    def set(self, t_ns: int) -> None:
        self._loop.call_later((t_ns - perf_counter_ns()) / 1e9, self._callback)

    def close(self) -> None:
        pass


class EarlyAlarm:
    """A timerfd set a little early, and a wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._callback, self._t_ns = callback, 0
        self._timer = TimerFdAlarm(loop, self._ring)
        self.close = self._timer.close

    def set(self, t_ns: int) -> None:
        self._t_ns = t_ns
        self._timer.set(t_ns - EARLY_NS)

    def _ring(self) -> None:
        wait_until(self._t_ns)
        self._callback()


def measure(name: str, create: Callable[[asyncio.AbstractEventLoop, Callable[[], None]], Alarm]) -> None:
    loop = uvloop.new_event_loop()
    gaps, late_ns, due_ns = random.Random(0), [], [0]

    def ring() -> None:
        late_ns.append(perf_counter_ns() - due_ns[-1])
        if len(late_ns) == NUM_ALARMS:
            loop.stop()
            return
        due_ns.append(perf_counter_ns() + round(gaps.uniform(4e6, 6e6)))
        alarm.set(due_ns[-1])

    alarm = create(loop, ring)
    due_ns.append(perf_counter_ns() + 5_000_000)
    alarm.set(due_ns[-1])
    cpu_s = time.process_time()
    loop.run_forever()
    cpu_s = time.process_time() - cpu_s
    alarm.close()
    loop.close()
    p50, p99, top = np.quantile(np.array(late_ns) / 1e3, (0.5, 0.99, 1.0))
    early = sum(value < 0 for value in late_ns)
    print(f"{name:16} late by µs: p50 {p50:8.1f}  p99 {p99:8.1f}  max {top:8.1f}  early {early}  CPU {cpu_s:.3f} s")


if __name__ == "__main__":
    for _ in range(2):
        measure("loop timer", TimerAlarm)
        measure("timer and spin", SpinningAlarm)
        measure("timerfd", TimerFdAlarm)
        measure("timerfd and wait", EarlyAlarm)
