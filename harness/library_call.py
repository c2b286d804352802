"""A request that a client library sends: one task that waits for it, and every way in which it can end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from time import perf_counter_ns

from llmbench.engines.wire import Failure, FailureKind, Timeline, WireRequest
from llmbench.harness.deadline import Deadline
from llmbench.workloads.spec import TimeoutSpec


class LibraryCall(ABC):
    """Fills `timeline` and calls `on_done` once; `on_ended` follows when nothing is left of the call.

    A subclass has what it needs before it calls this constructor, which starts the task.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        request: WireRequest,
        timeline: Timeline,
        timeouts: TimeoutSpec,
        on_done: Callable[[LibraryCall], None],
        on_ended: Callable[[LibraryCall], None],
    ) -> None:
        self.timeline = timeline
        self._request = request
        self._loop = loop
        self._on_done: Callable[[LibraryCall], None] | None = on_done
        self._on_ended = on_ended
        self._deadline = Deadline(loop, timeline, timeouts, self._last_chunk_ns, self._give_up)
        self._deadline.arm()
        self.task = loop.create_task(self._run())
        self.task.add_done_callback(self._ended)

    @abstractmethod
    async def _exchange(self) -> Failure | None:
        """Send the request and take its answer; why it failed, None where it did not."""

    @property
    def may_cancel(self) -> bool:
        """Whether the server bears to lose this call."""
        return self._request.may_cancel or self.timeline.sent_ns is None

    @property
    def is_given_up(self) -> bool:
        """Whether nobody wants to know any more how it ends."""
        return self._on_done is None

    def cancel(self, reason: str) -> None:
        """Give up. A call that its server could not bear to lose goes on unheard."""
        self._give_up(Failure(FailureKind.CANCELLED, reason))

    def _take(self, data: bytes, now_ns: int) -> None:
        """A chunk of the answer, handed over at `now_ns`."""
        if self.timeline.first_byte_ns is None:
            self.timeline.first_byte_ns = now_ns
        self.timeline.chunk_ns.append(now_ns)
        self.timeline.chunk_bytes.append(data)

    def _last_chunk_ns(self) -> int | None:
        return self.timeline.chunk_ns[-1] if self.timeline.chunk_ns else None

    def _give_up(self, failure: Failure) -> None:
        may_cancel = self.may_cancel
        self._finish(failure)
        if may_cancel:
            self.task.cancel()

    async def _run(self) -> None:
        self._finish(await self._exchange())

    def _finish(self, failure: Failure | None) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is None:
            return
        self._deadline.close()
        self.timeline.end_ns = perf_counter_ns()
        self.timeline.failure = failure
        on_done(self)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._on_ended(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": str(error), "exception": error})


async def given_up(calls: Iterable[LibraryCall], drain_s: float) -> None:
    """End all `calls`; those that their servers could not bear to lose get `drain_s` to end by themselves."""
    calls = tuple(calls)
    if unheard := [call.task for call in calls if not call.may_cancel]:
        await asyncio.wait(unheard, timeout=drain_s)
    for call in calls:
        call.task.cancel()
    await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
