"""One request and its answer: the bytes, the connection they use, the reader of the answer and its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

from llmbench.engines.wire import Endpoint, Failure, FailureKind, Timeline
from llmbench.harness.chunk_log import ChunkLog
from llmbench.harness.connection import Connection
from llmbench.harness.deadline import Deadline
from llmbench.harness.packet_clock import PacketClock, RawReader
from llmbench.harness.response_reader import ResponseReader
from llmbench.workloads.spec import TimeoutSpec


class Exchange:
    """Fills `timeline` and calls `on_done` once. A connection that is still good is given to `keep` before that."""

    __slots__ = (
        "_connect",
        "_connection",
        "_deadline",
        "_endpoint",
        "_keep",
        "_obstacle",
        "_on_done",
        "_packet_clock",
        "_payload",
        "reader",
        "timeline",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: Endpoint,
        payload: bytes,
        timeline: Timeline,
        timeouts: TimeoutSpec,
        packet_clock: PacketClock | None,
        log: ChunkLog,
        on_done: Callable[[], None],
        connect: Callable[[Endpoint], Connection],
        keep: Callable[[Connection, Endpoint], None],
    ) -> None:
        self.timeline = timeline
        self._payload = payload
        self._on_done: Callable[[], None] | None = on_done
        self._connect = connect
        self._keep = keep
        self._connection: Connection | None = None
        self._packet_clock = packet_clock
        self.reader = ResponseReader(timeline, log=log) if packet_clock is None else RawReader(timeline)
        self._endpoint = endpoint
        self._obstacle: Failure | None = None
        self._deadline = Deadline(loop, timeline, timeouts, self._last_body_ns, self.broken)

    def prepare(self, way: Connection | Failure | None) -> None:
        """Be ready to go on an idle connection that was kept for this, on one that `connect` will give, or to fail."""
        if isinstance(way, Failure):
            self._obstacle = way
            return
        self._connection = way
        self._deadline.hold()
        self._deadline.arm()

    def go(self) -> None:
        if self._obstacle is not None:
            self.broken(self._obstacle)
            return
        connection = self._connection
        if connection is None or not connection.is_open:  # the server may have closed it while it waited
            connection = self._connection = self._connect(self._endpoint)
        now_ns = perf_counter_ns()
        self._begin(connection, now_ns)
        if connection.is_open:
            connection.take(self)
            self.connected(now_ns)
        else:
            connection.open(self)

    def outbound(self) -> tuple[int, bytes] | None:
        """What is left to do when it is due: to write these bytes to this file descriptor, and to say so to `gone`.

        None where more than that is.
        """
        fd = None if self._connection is None else self._connection.outlet()
        return None if fd is None else (fd, self._payload)

    def gone(self, num_sent: int, began_ns: int, sent_ns: int) -> None:
        """What `outbound` gave has been written: `num_sent` bytes of it, -1 where the socket refused."""
        connection = self._connection
        assert connection is not None
        self._begin(connection, began_ns)
        connection.take(self)
        self.timeline.connect_ns = began_ns
        connection.was_sent(self._payload, num_sent, sent_ns)

    def cancel(self, reason: str) -> None:
        """Give up."""
        self.broken(Failure(FailureKind.CANCELLED, reason))

    def _begin(self, connection: Connection, now_ns: int) -> None:
        self.reader.several_segments = connection.several_segments
        self.timeline.begun_ns = now_ns
        self._deadline.begin(now_ns)

    def _last_body_ns(self) -> int | None:
        return self.reader.last_body_ns

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
        self._deadline.close()
        self.reader.close()
        connection, self._connection = self._connection, None
        if connection is not None and connection.flow is not None and isinstance(self.reader, RawReader):
            assert self._packet_clock is not None
            self._packet_clock.finish(connection.flow, self.reader)
        if connection is not None:
            if is_reusable and not connection.is_sending:
                connection.release()
                self._keep(connection, self._endpoint)
            else:
                connection.close()
        on_done()
