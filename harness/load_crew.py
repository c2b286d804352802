"""Several load generators that send one trial's requests together."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from llmbench.engines.wire import Endpoint, Failure, FailureKind, Timeline
from llmbench.harness.load_orders import Assignment, Go, Halt, Ready
from llmbench.harness.loadgen import ClockChoice, LoadReport, OnDone
from llmbench.harness.local_worker import Inbox, LocalWorker
from llmbench.harness.merged_load import merged
from llmbench.harness.plan import PlannedRequest
from llmbench.harness.recorder import AdapterRef, Answered
from llmbench.harness.share import Share, shares
from llmbench.harness.stop_flag import StopFlag
from llmbench.workloads.spec import RetrySpec, TimeoutSpec

# From the last worker's Ready to the start of the schedule: for the word to arrive, and for each to clear its memory.
LEAD_NS = 300_000_000
_STOP_CHECK_S = 0.05


class Worker(Protocol):
    """One load worker, wherever it runs. `is_lost` once `ending` has been asked, which is after its last reply."""

    number: int
    is_lost: bool

    def tell(self, order: object) -> None:
        """Hand over an Assignment, Go or Halt. A worker that is gone is noticed by its last reply, None."""
        ...

    def ending(self) -> str:
        """How it ended, in words."""
        ...

    def close(self) -> None:
        """End it and wait until it has ended."""
        ...


class LoadCrew:
    """`num_workers` workers, started once and kept for all trials of a session; `with` ends them."""

    def __init__(self, num_workers: int, start: Callable[[int, Inbox], Worker] = LocalWorker) -> None:
        assert num_workers >= 1
        self._inbox: Inbox = queue.SimpleQueue()
        self._workers = [start(number, self._inbox) for number in range(num_workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.close()

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
        retries: RetrySpec | None = None,
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
            worker.tell(Assignment(trial.shares[worker.number], adapter, endpoint, timeouts, clock, retries))
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
        # The last attempt of requests that are to be sent again.
        self._retried: dict[str, Timeline] = {}
        self._reports: list[LoadReport] = []
        self._lost: list[str] = []

    @property
    def may_start(self) -> bool:
        """Whether every worker that is left is ready and none has been told to go."""
        return self.start_ns is None and bool(self.under_way) and self.under_way <= self._ready

    def take(self, number: int, reply: object) -> None:
        match reply:
            case Answered(request_id, timeline):
                if timeline.retry_due_ns is None:
                    del self._open[number][request_id]
                    self._retried.pop(request_id, None)
                else:
                    self._retried[request_id] = timeline
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
        """Failures for requests that were not yet due, and for those of which nobody knows more."""
        now_ns = time.perf_counter_ns()
        unsent = Failure(FailureKind.CANCELLED, f"This request was not sent: {why}.")
        unknown = Failure(FailureKind.CANCELLED, f"What became of this request is not known: {why}.")
        for request in requests:
            due_ns, attempt, first_due_ns = now_ns, 1, None
            if (before := self._retried.pop(request.request_id, None)) is not None:
                assert before.retry_due_ns is not None
                due_ns, attempt = before.retry_due_ns, before.attempt + 1
                first_due_ns = before.due_ns if before.first_due_ns is None else before.first_due_ns
            elif self.start_ns is not None and request.due_offset_ns is not None:
                due_ns = self.start_ns + request.due_offset_ns
            failure = unsent if self.start_ns is None or due_ns > now_ns else unknown
            timeline = Timeline(due_ns, end_ns=max(now_ns, due_ns), failure=failure)
            timeline.attempt, timeline.first_due_ns = attempt, first_due_ns
            self._on_done(request.request_id, timeline)

    def report(self) -> LoadReport:
        return merged(self._reports, self._lost, self.start_ns)
