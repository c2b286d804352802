"""Several load generators that send one trial's requests together."""

from __future__ import annotations

import contextlib
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, Self

from llmbench.engines.wire import Endpoint, Failure, FailureKind, Timeline
from llmbench.harness.load_orders import Assignment, Go, Halt, Ready
from llmbench.harness.loadgen import ClockChoice, LoadReport, OnDone
from llmbench.harness.merged_load import merged
from llmbench.harness.plan import PlannedRequest
from llmbench.harness.recorder import AdapterRef, Answered
from llmbench.harness.share import Share, shares
from llmbench.harness.stop_flag import StopFlag
from llmbench.workloads.spec import TimeoutSpec

# From the last worker's Ready to the start of the schedule: for the word to arrive, and for each to clear its memory.
LEAD_NS = 300_000_000
_STOP_CHECK_S = 0.05
_END_S = 5.0


class LoadCrew:
    """`num_workers` processes, started once and kept for all trials of a session; `with` ends them."""

    def __init__(self, num_workers: int) -> None:
        assert num_workers >= 1
        self._inbox: queue.SimpleQueue[tuple[int, object]] = queue.SimpleQueue()
        self._workers = [_Worker(number, self._inbox) for number in range(num_workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.close()

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(worker.process.pid for worker in self._workers)

    def run_load(
        self,
        requests: Sequence[PlannedRequest],
        *,
        adapter: AdapterRef,
        endpoint: Endpoint,
        concurrency: int | None,
        timeouts: TimeoutSpec,
        on_done: OnDone,
        stop: StopFlag,
        clock: ClockChoice = "auto",
    ) -> LoadReport:
        """As `loadgen.run_load`, divided as `share.shares` says, with one start for all.

        A worker that dies takes nobody with it: its requests that have not ended are told to `on_done` as failures,
        and the report's `lost_workers` says so. Raises what a worker's load raised.
        """
        alive = [worker for worker in self._workers if not worker.is_lost]
        dealt = shares(requests, concurrency, max(1, len(alive)))
        trial = _CrewTrial(dict(zip((worker.number for worker in alive), dealt, strict=False)), on_done)
        if not alive:
            trial.give_up(requests, "no load worker is left")
        for worker in alive[: len(dealt)]:
            worker.tell(Assignment(trial.shares[worker.number], adapter, endpoint, timeouts, clock))
        halted = False
        while trial.under_way:
            if stop.is_set() and not halted:
                halted = True
                for worker in alive:
                    worker.tell(Halt())
            try:
                number, reply = self._inbox.get(timeout=_STOP_CHECK_S)
            except queue.Empty:
                continue
            if reply is None:
                trial.lose(number, self._workers[number].ending())
            else:
                trial.take(number, reply)
            if trial.may_start:
                trial.start_ns = time.perf_counter_ns() + LEAD_NS
                for number in trial.under_way:
                    self._workers[number].tell(Go(trial.start_ns))
        return trial.report()


class _CrewTrial:
    """What is known of one trial while workers are at it. `shares` is keyed by the workers' numbers."""

    def __init__(self, dealt: Mapping[int, Share], on_done: OnDone) -> None:
        self.shares = dealt
        self.start_ns: int | None = None
        self.under_way = set(dealt)
        self._on_done = on_done
        self._ready: set[int] = set()
        self._open = {number: {each.request_id: each for each in share.requests} for number, share in dealt.items()}
        self._reports: list[LoadReport] = []
        self._lost: list[str] = []

    @property
    def may_start(self) -> bool:
        """Whether every worker that is left is ready and none has been told to go."""
        return self.start_ns is None and bool(self.under_way) and self.under_way <= self._ready

    def take(self, number: int, reply: object) -> None:
        match reply:
            case Answered(request_id, timeline):
                del self._open[number][request_id]
                self._on_done(request_id, timeline)
            case Ready():
                self._ready.add(number)
            case LoadReport():
                self._reports.append(reply)
                self.under_way.discard(number)
            case Exception():
                raise reply
            case _:
                raise AssertionError(reply)

    def lose(self, number: int, ending: str) -> None:
        if number not in self.under_way:
            return
        self.under_way.discard(number)
        left = list(self._open[number].values())
        self._lost.append(f"load worker {number + 1} {ending}, and {len(left)} of its requests were lost")
        self.give_up(left, f"load worker {number + 1} {ending}")

    def give_up(self, requests: Sequence[PlannedRequest], why: str) -> None:
        """Failures for requests of which nobody knows more."""
        now_ns = time.perf_counter_ns()
        failure = Failure(FailureKind.CANCELLED, f"What became of this request is not known: {why}.")
        for request in requests:
            due_ns = now_ns
            if self.start_ns is not None and request.due_offset_ns is not None:
                due_ns = self.start_ns + request.due_offset_ns
            self._on_done(request.request_id, Timeline(due_ns, end_ns=max(now_ns, due_ns), failure=failure))

    def report(self) -> LoadReport:
        return merged(self._reports, self._lost, self.start_ns)


class _Worker:
    def __init__(self, number: int, inbox: queue.SimpleQueue[tuple[int, object]]) -> None:
        self.number = number
        self.is_lost = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmbench.harness.load_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Not in the terminal's process group: Ctrl-C is the session's to handle.
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin: IO[bytes] = self.process.stdin
        self._listener = threading.Thread(target=self._listen, args=(self.process.stdout, inbox.put), daemon=True)
        self._listener.start()

    def tell(self, order: object) -> None:
        # A worker that is gone is noticed by who reads its replies.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(order, self._stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._stdin.flush()

    def ending(self) -> str:
        """How the process ended, in words."""
        self.is_lost = True
        code = self.process.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended early with code {code}"

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join()

    def _listen(self, pipe: IO[bytes], put: Callable[[tuple[int, object]], None]) -> None:
        with pipe, contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                put((self.number, pickle.load(pipe)))  # noqa: S301 (our own child's)
        put((self.number, None))
