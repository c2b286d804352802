"""The telemetry's own side: `python -m llmbench.harness.telemetry_process`, told what to do by `harness/telemetry.py`.

It ends when the session's end of the pipe closes, be the session killed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import sys
import threading
import time
from typing import IO, Any

from llmbench.harness.cpu_energy import CpuEnergyMeter
from llmbench.harness.gpu_meter import GpuMeter, gpu_meter
from llmbench.harness.own_stdout import own_stdout
from llmbench.harness.process_meter import ProcessMeter
from llmbench.harness.prometheus import GapError, scrape
from llmbench.harness.telemetry import ReadNow, Start, Watch, Watched
from llmbench.results.telemetry import Reading, Source, TelemetryJournal, Value

# Behind the engine and the load generator for a processor: late telemetry is stamped late, and harms nothing.
_NICENESS = 10
_BEAT = object()


class Sampler:
    """Reads one engine, with everything that is known of it; `values` are those of one moment as near as can be."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._process = None if watched.pid is None else ProcessMeter(watched.pid)
        self._gpus: GpuMeter | None = gpu_meter(watched.visible_gpus) if watched.on_this_host else None
        self._cpu_energy = CpuEnergyMeter() if watched.on_this_host else None

    def read(self) -> list[Reading]:
        """A reading of each source that has anything to say, or a gap."""
        readings = []
        if self._watched.endpoint is not None and self._watched.metrics is not None:
            began_ns = time.perf_counter_ns()
            try:
                values, gap = scrape(self._watched.endpoint, self._watched.metrics), None
            except GapError as error:
                values, gap = [], str(error)
            readings.append(self._reading(began_ns, "metrics", values, gap=gap))
        if self._process is not None:
            began_ns = time.perf_counter_ns()
            values = self._process.read()
            gap = None if values else "The engine's process is gone."
            readings.append(self._reading(began_ns, "process", values, gap=gap))
        if self._gpus is not None:
            began_ns = time.perf_counter_ns()
            readings += [self._reading(began_ns, "gpu", values, name) for name, values in self._gpus.read()]
        if self._cpu_energy is not None:
            began_ns = time.perf_counter_ns()
            if values := self._cpu_energy.read():
                readings.append(self._reading(began_ns, "cpu", values))
        began_ns = time.perf_counter_ns()
        readings.append(self._reading(began_ns, "sampler", [Value("sampler_cpu", time.process_time())]))
        return readings

    def close(self) -> None:
        if self._gpus is not None:
            self._gpus.close()

    def _reading(
        self, began_ns: int, source: Source, values: list[Value], instance: str = "", gap: str | None = None
    ) -> Reading:
        now_ns = time.perf_counter_ns()
        return Reading(now_ns, now_ns - began_ns, self._watched.label, source, instance, values, gap)


def main() -> None:
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    replies = own_stdout()
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, messages), daemon=True).start()
    start = messages.get()
    if isinstance(start, Start):
        _run(start, messages, replies)


def _run(start: Start, messages: queue.SimpleQueue[Any], replies: IO[bytes]) -> None:
    journal = TelemetryJournal(start.path)
    sampler: Sampler | None = None
    due_s = time.monotonic()
    while True:
        try:
            message = messages.get(timeout=max(0.0, due_s - time.monotonic()) if sampler is not None else None)
        except queue.Empty:
            message = _BEAT
        if message is None:
            break
        if isinstance(message, Watch):
            if sampler is not None:
                sampler.close()
            sampler = None if message.watched is None else Sampler(message.watched)
            due_s = time.monotonic()
            continue
        if sampler is not None:
            with contextlib.suppress(OSError):  # a full disk leaves a hole in the telemetry
                journal.append(sampler.read())
        if isinstance(message, ReadNow):
            replies.write(b"read\n")
            replies.flush()
        else:
            # On the beat, and without catching up on beats that a slow reading missed.
            due_s += start.interval_s * max(1, -((due_s - time.monotonic()) // start.interval_s))
    journal.close()


def _receive(pipe: IO[bytes], messages: queue.SimpleQueue[Any]) -> None:
    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            messages.put(pickle.load(pipe))  # noqa: S301 (our own parent's)
    messages.put(None)


if __name__ == "__main__":
    main()
