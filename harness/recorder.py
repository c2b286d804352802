"""The process that decodes answers and stores them while the run goes, and the harness's handle on it.

Why a process: decoding, journalling and drawing the progress bar would share the interpreter lock with the event loop
that stamps tokens. What the event loop pays per request is to pickle its stamps and raw bytes (about 0.1 ms for 250
reads); a thread writes them into a pipe. Why not after the run: when the harness is killed, everything handed over is
still stored, because the pipe and this process outlive it.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from llmbench.engines.wire import Timeline
from llmbench.harness.errors import HarnessError
from llmbench.harness.outbox import Outbox
from llmbench.harness.plan import Trial
from llmbench.harness.validity import Finding
from llmbench.results.manifest import FinalStatus, Manifest
from llmbench.results.records import RequestRecord


class AdapterRef(NamedTuple):
    """An adapter by its registered name and settings: what makes one in another process."""

    name: str
    settings: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Opening:
    """The first message. `adapters` has each engine's adapter by the engine's label, as `registry.get` takes it.

    `num_requests` and `num_trials` are None where nobody knows them beforehand. Of the answers' texts at most
    `answer_bytes` are kept.
    """

    path: Path
    manifest: Manifest
    adapters: Mapping[str, AdapterRef]
    tokenizer_path: Path | None
    num_requests: int | None
    draw: bool
    lag_matters: bool
    exact_lengths: bool
    constant_load: bool = False
    num_trials: int | None = None
    answer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TrialBegins:
    """Requests of this trial may now be answered; sent before the clock starts, so that an answer is only stamps."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class Answered:
    request_id: str
    timeline: Timeline


@dataclass(frozen=True, slots=True)
class Recall:
    """Asks for the rows of the last trial's measured requests that have ended."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What the progress bar says is going on."""

    text: str


@dataclass(frozen=True, slots=True)
class ManifestChanges:
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Closing:
    """The last message: `findings` are the session's own, those about the records the recorder adds."""

    status: FinalStatus
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The recorder's last word: everything found, what forbids the use of the numbers first."""

    findings: tuple[Finding, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the numbers must not be used; empty for a valid run."""
        return tuple(finding.text for finding in self.findings if finding.invalid)


class Recorder:
    """Starts the recorder process and feeds it. `send` never blocks; `close` waits until everything is stored."""

    def __init__(self, opening: Opening) -> None:
        self.path = opening.path
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llmbench.harness.recorder_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Not in the terminal's process group: Ctrl-C is the session's to handle, and what was measured is stored.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._replies: IO[bytes] = self._process.stdout
        self._outbox = Outbox(self._process.stdin)
        self.send(opening)
        try:
            self.log_paths: Mapping[str, Path] = self._reply()
        except Exception:
            self.abandon()
            raise

    def send(self, message: object) -> None:
        self._outbox.put(message)

    def recall(self) -> Sequence[RequestRecord]:
        """The measured requests of the last trial, once all that was sent before is stored."""
        self.send(Recall())
        records: Sequence[RequestRecord] = self._reply()
        return records

    def check(self) -> None:
        """Raise HarnessError if the recorder is no longer there: measuring on would measure for nobody."""
        if self._process.poll() is not None:
            self._reply()

    def close(self, closing: Closing) -> Verdict:
        """The verdict, once the run directory is finished. Raises HarnessError when it could not be."""
        self.send(closing)
        verdict: Verdict = self._reply()
        self._outbox.close()
        self._process.wait()
        self._replies.close()
        return verdict

    def abandon(self) -> None:
        """Let the recorder store what it has been given, and leave the run directory unfinished."""
        self._outbox.close(timeout_s=10)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        self._replies.close()

    def _reply(self) -> Any:
        try:
            reply = pickle.load(self._replies)  # noqa: S301 (our own child's)
        except EOFError:
            code = self._process.wait()
            raise HarnessError(
                f"The recorder process ended early (code {code}); what it stored before is in the run directory."
            ) from None
        if isinstance(reply, Exception):
            raise reply
        return reply


def read_messages(pipe: IO[bytes]) -> Iterator[Any]:
    """Messages until the pipe closes; one cut off by a killed harness is left out.

    A thread empties the pipe at once, so that a slow decoder never leaves answers behind in a harness that may die.
    """
    received: queue.SimpleQueue[object] = queue.SimpleQueue()

    def empty() -> None:
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                received.put(pickle.load(pipe))  # noqa: S301 (our own parent's)
        received.put(None)

    thread = threading.Thread(target=empty)
    thread.start()
    while (message := received.get()) is not None:
        yield message
    thread.join()
