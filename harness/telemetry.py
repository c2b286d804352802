"""The process that reads what engines and devices say of themselves during a run; the session's handle on it.

Why a process: a reading parses text and walks /proc for some ms, which in the load generator's process would be ms in
which no chunk is stamped. It stamps its readings itself, by the same monotonic clock of the host.
"""

from __future__ import annotations

import contextlib
import pickle
import select
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from llmbench.engines.metric_map import MetricMap
from llmbench.engines.wire import Endpoint

DEFAULT_INTERVAL_S = 1.0
# An engine that has just answered its last request answers this too; a measurement does not wait for more.
_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Watched:
    """The engine to read. `endpoint` is where its metrics are, None where it has none; `pid` is None for one that was
    not started here, and `on_this_host` says whether this machine's devices are those it runs on.

    `visible_gpus` are the GPUs it may use, as CUDA_VISIBLE_DEVICES names them; None for all.
    """

    label: str
    metrics: MetricMap | None
    endpoint: Endpoint | None
    pid: int | None
    on_this_host: bool
    visible_gpus: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """The first message. `path` is the journal that readings are appended to."""

    path: Path
    interval_s: float


@dataclass(frozen=True, slots=True)
class Watch:
    """Read this engine from now on; None to rest."""

    watched: Watched | None


@dataclass(frozen=True, slots=True)
class ReadNow:
    """Read at once, and answer with a line when it is done."""


class Telemetry:
    """Starts the process and tells it whom to read; `with` ends it. It never raises: telemetry that fails is missing.

    With an interval of 0 nothing is started, and nothing is read.
    """

    def __init__(self, path: Path, interval_s: float) -> None:
        self._process = None if interval_s <= 0 else _start()
        self._send(Start(path, interval_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def watch(self, watched: Watched | None) -> None:
        """Read `watched` from now on; None before its engine is stopped."""
        self._send(Watch(watched))

    def read_now(self) -> None:
        """A reading now, complete when this returns: what is counted between two of them is exact."""
        process = self._process
        if process is None:
            return
        self._send(ReadNow())
        assert process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            if select.select([process.stdout], [], [], _ANSWER_S)[0]:
                process.stdout.readline()

    def close(self) -> None:
        """End it; all that it read is in the journal."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            _pipe(process).close()
        try:
            process.wait(timeout=_ANSWER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def _send(self, message: object) -> None:
        if self._process is None:
            return
        # A process that is gone reads nothing more, which is all there is to it.
        with contextlib.suppress(OSError, ValueError):
            pickle.dump(message, _pipe(self._process))
            _pipe(self._process).flush()


def visible_gpus(env: Mapping[str, str]) -> tuple[str, ...] | None:
    """The GPUs that a process with the environment `env` may use; None for all."""
    listed = env.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return None
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmbench.harness.telemetry_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Not in the terminal's process group: Ctrl-C is the session's to handle.
        start_new_session=True,
    )


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin
