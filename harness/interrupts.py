"""Ctrl-C and its kin, turned into a stop that keeps what was measured."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from llmbench.harness.errors import ExitCode
from llmbench.harness.stop_flag import StopFlag

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, the first signal sets `stop`, the second raises KeyboardInterrupt, the third ends the process.

    SIGTERM and SIGHUP count as Ctrl-C does, so that a run under `timeout` or in a closed terminal keeps its results
    too. A signal that was ignored before (nohup) stays so. Enter in the main thread.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.stop = StopFlag()
        self._on_first = on_first
        self._num_received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._num_received += 1
        if self._num_received == 1:
            self.stop.set()
            self._on_first()
        elif self._num_received == 2:
            raise KeyboardInterrupt
        else:
            sys.stderr.flush()
            os._exit(ExitCode.INTERRUPTED)
