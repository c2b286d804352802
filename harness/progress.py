"""The live progress bar: what is going on, requests done and failed, tokens per second, time left."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from llmbench.results.records import RequestRecord

_REDRAWS_PER_S = 4


class Progress:
    """A bar on stderr over all requests of a run, warm-up included. Draws nothing unless `draw`.

    Tokens per second are over the phase that is on: from its first answer's sent time until now.
    """

    def __init__(self, num_requests: int | None, draw: bool) -> None:
        self._failed = 0
        self._phase_tokens = 0
        self._phase_begin_ns: int | None = None
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}{task.fields[failed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True, markup=False, highlight=False),
            refresh_per_second=_REDRAWS_PER_S,
            disable=not draw,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=num_requests, rate="", failed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def say(self, text: str) -> None:
        """Name the phase that begins now."""
        self._phase_tokens, self._phase_begin_ns = 0, None
        self._bar.update(self._task, description=text, rate="")

    def add(self, record: RequestRecord) -> None:
        """Count one answer."""
        self._failed += record.status == "failed"
        self._phase_tokens += record.output_tokens or 0
        if self._phase_begin_ns is None:
            self._phase_begin_ns = record.sent_ns
        rate = ""
        if self._phase_begin_ns is not None:
            # perf_counter_ns is one clock for all processes of a host (CLOCK_MONOTONIC).
            elapsed_ns = max(1, time.perf_counter_ns() - self._phase_begin_ns)
            rate = f"{self._phase_tokens / elapsed_ns * 1e9:,.0f} tok/s"
        failed = f", {self._failed} failed" if self._failed else ""
        self._bar.update(self._task, advance=1, rate=rate, failed=failed)

    def stop(self) -> None:
        self._bar.stop()
