"""One request and its answer: the bytes, the connection they use, the reader of the answer and its deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

from llmbench.engines.wire import Endpoint, Failure, FailureKind, Timeline
from llmbench.harness.connection import Connection
from llmbench.harness.packet_clock import PacketClock, RawReader
from llmbench.harness.response_reader import ResponseReader
from llmbench.workloads.spec import TimeoutSpec


class Exchange:
    """Fills `timeline` and calls `on_done` once. A connection that is still good is given to `keep` before that."""

    __slots__ = (
        "_begun_ns",
        "_connection",
        "_endpoint",
        "_keep",
        "_loop",
        "_on_done",
        "_packet_clock",
        "_payload",
        "_timeouts",
        "_timer",
        "reader",
        "timeline",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        payload: bytes,
        timeline: Timeline,
        timeouts: TimeoutSpec,
        packet_clock: PacketClock | None,
        on_done: Callable[[Exchange], None],
        keep: Callable[[Connection, Endpoint], None],
    ) -> None:
        self.timeline = timeline
        self._loop = loop
        self._payload = payload
        self._timeouts = timeouts
        self._on_done: Callable[[Exchange], None] | None = on_done
        self._keep = keep
        self._connection: Connection | None = None
        self._packet_clock = packet_clock
        self.reader = ResponseReader(timeline) if packet_clock is None else RawReader(timeline)
        self._endpoint: Endpoint | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begun_ns = perf_counter_ns()

    def open(self, connection: Connection, endpoint: Endpoint) -> None:
        """Go ahead on a connection that has yet to be made."""
        self._begin(connection, endpoint)
        connection.open(self)

    def reuse(self, connection: Connection, endpoint: Endpoint) -> None:
        """Go ahead on a connection that has been taken from the idle ones."""
        self._begin(connection, endpoint)
        self.connected(perf_counter_ns())

    def cancel(self, reason: str) -> None:
        """Give up."""
        self.broken(Failure(FailureKind.CANCELLED, reason))

    def _begin(self, connection: Connection, endpoint: Endpoint) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self.reader.several_segments = connection.several_segments
        self._arm(self._begun_ns)

    # What the connection tells.

    def connected(self, now_ns: int) -> None:
        assert self._connection is not None
        self.timeline.connect_ns = now_ns
        self._connection.send(self._payload)

    def sent(self, now_ns: int) -> None:
        self.timeline.sent_ns = now_ns

    def answered(self) -> None:
        self._finish(self.reader.is_reusable)

    def broken(self, failure: Failure) -> None:
        self.timeline.end_ns = perf_counter_ns()
        self.timeline.failure = failure
        self._finish(False)

    def _finish(self, is_reusable: bool) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self.reader.close()
        connection, self._connection = self._connection, None
        if connection is not None and connection.flow is not None and isinstance(self.reader, RawReader):
            assert self._packet_clock is not None
            self._packet_clock.finish(connection.flow, self.reader)
        if connection is not None and self._endpoint is not None:
            if is_reusable and not connection.is_sending:
                connection.release()
                self._keep(connection, self._endpoint)
            else:
                connection.close()
        on_done(self)

    # Deadlines. One timer for the request's life: it is armed no later than any deadline can fall, looks at the stamps
    # when it fires, and is armed again. No read touches it.

    def _arm(self, now_ns: int) -> None:
        deadline_ns, _ = self._deadline()
        timeouts = self._timeouts
        shortest_s = min(timeouts.first_token_s, timeouts.idle_s, timeouts.total_s)
        wait_ns = min(deadline_ns - now_ns, int(shortest_s * 1e9))
        self._timer = self._loop.call_later(max(wait_ns, 0) / 1e9, self._check_deadline)

    def _check_deadline(self) -> None:
        now_ns = perf_counter_ns()
        deadline_ns, failure = self._deadline()
        if now_ns < deadline_ns:
            self._arm(now_ns)
        else:
            self.broken(failure)

    def _deadline(self) -> tuple[int, Failure]:
        """The next deadline as things stand, and what is wrong once it has passed."""
        timeline, timeouts = self.timeline, self._timeouts
        if timeline.connect_ns is None:
            return self._begun_ns + int(timeouts.connect_s * 1e9), Failure(
                FailureKind.CONNECT_TIMEOUT, f"Not connected after {timeouts.connect_s:g} s."
            )
        # A server that does not even take the request is judged from when it was connected.
        sent_ns = timeline.connect_ns if timeline.sent_ns is None else timeline.sent_ns
        total = (
            sent_ns + int(timeouts.total_s * 1e9),
            Failure(FailureKind.TOTAL_TIMEOUT, f"Not complete {timeouts.total_s:g} s after it was sent."),
        )
        last_body_ns = self.reader.last_body_ns
        if last_body_ns is None:
            stage = (
                sent_ns + int(timeouts.first_token_s * 1e9),
                Failure(
                    FailureKind.FIRST_TOKEN_TIMEOUT,
                    f"No token {timeouts.first_token_s:g} s after the request was sent.",
                ),
            )
        else:
            stage = (
                last_body_ns + int(timeouts.idle_s * 1e9),
                Failure(FailureKind.IDLE_TIMEOUT, f"No more tokens for {timeouts.idle_s:g} s."),
            )
        return min(stage, total, key=lambda deadline: deadline[0])
