"""When a request has taken too long, by the stamps of its timeline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

from llmbench.engines.wire import Failure, FailureKind, Timeline
from llmbench.workloads.spec import TimeoutSpec


class Deadline:
    """Calls `on_passed` once when `timeline` has run into one of `timeouts`, unless it is closed before.

    `last_body_ns` gives the stamp of the last read that brought a part of the answer, None before the first.
    One timer for the request's life: it is armed no later than any deadline can fall, looks at the stamps when it
    fires, and is armed again. No read touches it.
    """

    __slots__ = (
        "_begun_ns",
        "_last_body_ns",
        "_loop",
        "_on_passed",
        "_shortest_ns",
        "_timeline",
        "_timeouts",
        "_timer",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeline: Timeline,
        timeouts: TimeoutSpec,
        last_body_ns: Callable[[], int | None],
        on_passed: Callable[[Failure], None],
    ) -> None:
        self._loop = loop
        self._timeline = timeline
        self._timeouts = timeouts
        self._last_body_ns = last_body_ns
        self._on_passed: Callable[[Failure], None] | None = on_passed
        self._timer: asyncio.TimerHandle | None = None
        self._begun_ns: int | None = perf_counter_ns()
        self._shortest_ns = int(min(timeouts.first_token_s, timeouts.idle_s, timeouts.total_s) * 1e9)

    def arm(self) -> None:
        """Start to watch. The time to connect counts from when this was made, or from `begin`."""
        self._arm(perf_counter_ns())

    def hold(self) -> None:
        """No time counts before `begin`."""
        self._begun_ns = None

    def begin(self, now_ns: int) -> None:
        """The request is sent at `now_ns`, or as soon as it is connected."""
        self._begun_ns = now_ns

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Who made this is held by its callbacks, and holds it: nothing collects such circles during a load.
        self._on_passed, self._last_body_ns = None, _nothing

    def _arm(self, now_ns: int) -> None:
        deadline_ns, _ = self._next()
        wait_ns = min(deadline_ns - now_ns, self._shortest_ns)
        self._timer = self._loop.call_later(max(wait_ns, 0) / 1e9, self._check)

    def _check(self) -> None:
        now_ns = perf_counter_ns()
        deadline_ns, kind = self._next()
        if now_ns < deadline_ns:
            self._arm(now_ns)
        elif self._on_passed is not None:
            self._on_passed(Failure(kind, self._sentence(kind)))

    def _next(self) -> tuple[int, FailureKind]:
        """The next deadline as things stand, and what has happened once it has passed."""
        timeline, timeouts = self._timeline, self._timeouts
        if timeline.connect_ns is None:
            begun_ns = perf_counter_ns() if self._begun_ns is None else self._begun_ns
            return begun_ns + int(timeouts.connect_s * 1e9), FailureKind.CONNECT_TIMEOUT
        # A server that does not even take the request is judged from when it was connected.
        sent_ns = timeline.connect_ns if timeline.sent_ns is None else timeline.sent_ns
        total = sent_ns + int(timeouts.total_s * 1e9), FailureKind.TOTAL_TIMEOUT
        last_body_ns = self._last_body_ns()
        if last_body_ns is None:
            stage = sent_ns + int(timeouts.first_token_s * 1e9), FailureKind.FIRST_TOKEN_TIMEOUT
        else:
            stage = last_body_ns + int(timeouts.idle_s * 1e9), FailureKind.IDLE_TIMEOUT
        return min(stage, total, key=lambda deadline: deadline[0])

    def _sentence(self, kind: FailureKind) -> str:
        timeouts = self._timeouts
        return {
            FailureKind.CONNECT_TIMEOUT: f"Not connected after {timeouts.connect_s:g} s.",
            FailureKind.FIRST_TOKEN_TIMEOUT: f"No token {timeouts.first_token_s:g} s after the request was sent.",
            FailureKind.IDLE_TIMEOUT: f"No more tokens for {timeouts.idle_s:g} s.",
            FailureKind.TOTAL_TIMEOUT: f"Not complete {timeouts.total_s:g} s after it was sent.",
        }[kind]


def _nothing() -> None:
    return None
