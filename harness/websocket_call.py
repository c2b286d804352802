"""One request over a WebSocket of its own: sent as one message, answered by messages until the server closes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from llmbench.engines.server_message import clean
from llmbench.engines.wire import Failure, FailureKind, Timeline, WireRequest
from llmbench.harness.connection import Connection
from llmbench.harness.deadline import Deadline
from llmbench.harness.response_reader import MAX_BODY_BYTES
from llmbench.workloads.spec import TimeoutSpec

SWITCHING_PROTOCOLS = 101

# Close codes of RFC 6455 §7.4 that say something else than that the server broke.
_WELL = (1000, 1001, 1005)
_MALFORMED = (1002, 1003, 1007)
_TRY_AGAIN_LATER = 1013


class WebSocketCall:
    """Fills `timeline` and calls `on_done` once.

    Connected is when the server has switched to WebSocket. A chunk is one message, stamped when the read returned that
    brought its last byte, before anybody takes it apart; of several messages in one read all but the last are marked
    coalesced.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        request: WireRequest,
        timeline: Timeline,
        timeouts: TimeoutSpec,
        on_done: Callable[[WebSocketCall], None],
    ) -> None:
        self.timeline = timeline
        self._request = request
        self._on_done: Callable[[WebSocketCall], None] | None = on_done
        self._deadline = Deadline(loop, timeline, timeouts, self._last_message_ns, self.broken)
        self._connection: Connection | None = None
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._parts: list[bytes] = []
        self._num_bytes = 0
        self._rejection: list[bytes] = []

    def open(self, connection: Connection) -> None:
        """Go ahead on a connection that has yet to be made."""
        self._connection = connection
        self._deadline.arm()
        connection.open(self)

    def cancel(self, reason: str) -> None:
        """Give up."""
        self.broken(Failure(FailureKind.CANCELLED, reason))

    def _last_message_ns(self) -> int | None:
        return self.timeline.chunk_ns[-1] if self.timeline.chunk_ns else None

    # What the connection tells.

    @property
    def reader(self) -> WebSocketCall:
        return self

    @property
    def log(self) -> None:
        """None: what arrives are no HTTP chunks."""

    def connected(self, now_ns: int) -> None:
        endpoint = self._request.endpoint
        key = endpoint.api_key
        headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self._say(Request(host=f"{host}:{endpoint.port}", target=self._request.method, extra_headers=headers))

    def sent(self, now_ns: int) -> None:
        timeline = self.timeline
        if timeline.connect_ns is not None and timeline.sent_ns is None:
            timeline.sent_ns = now_ns

    def feed(self, data: bytes, read_ns: int, arrival_ns: int | None = None) -> bool:
        """True once the answer is complete or has failed; then feed no more."""
        num_before = len(self.timeline.chunk_ns)
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                self._take(event, read_ns)
                if self.timeline.end_ns is not None:
                    break
        except (ProtocolError, ValueError) as error:  # ValueError: the library takes header values for ASCII
            self._end(read_ns, FailureKind.MALFORMED, f"The server does not speak WebSocket: {clean(str(error))}.")
        num_messages = len(self.timeline.chunk_ns) - num_before
        if num_messages:
            self.timeline.coalesced += [True] * (num_messages - 1) + [False]
            self.timeline.arrival_ns += [None] * num_messages
        return self.timeline.end_ns is not None

    def end_of_stream(self, read_ns: int) -> None:
        where = "before it had switched to WebSocket" if self.timeline.connect_ns is None else "without closing it"
        self._end(read_ns, FailureKind.TRUNCATED, f"The server ended the connection {where}.")

    def answered(self) -> None:
        self._finish()

    def broken(self, failure: Failure) -> None:
        self.timeline.end_ns = perf_counter_ns()
        self.timeline.failure = failure
        self._finish()

    def _take(self, event: Event, read_ns: int) -> None:
        match event:
            case AcceptConnection():
                self.timeline.connect_ns = read_ns
                self.timeline.status = SWITCHING_PROTOCOLS
                self._say(TextMessage(data=self._request.payload.decode()))
            case RejectConnection():
                self.timeline.status = event.status_code
                self.timeline.headers = [
                    (name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers
                ]
                if not event.has_body:
                    self._refused(read_ns)
            case RejectData():
                self._rejection.append(bytes(event.data))
                if event.body_finished:
                    self._refused(read_ns)
            case TextMessage() | BytesMessage():
                self._take_part(event, read_ns)
            case Ping():
                assert self._connection is not None
                if not self._connection.is_sending:  # a server that has yet to take our question knows that we live
                    self._say(event.response())
            case CloseConnection():
                self._closed(event, read_ns)

    def _take_part(self, event: TextMessage | BytesMessage, read_ns: int) -> None:
        timeline = self.timeline
        if timeline.first_byte_ns is None:
            timeline.first_byte_ns = read_ns
        part = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
        self._parts.append(part)
        self._num_bytes += len(part)
        if self._num_bytes > MAX_BODY_BYTES:
            self._end(read_ns, FailureKind.MALFORMED, f"The answer is longer than {MAX_BODY_BYTES} bytes.")
        elif event.message_finished:
            timeline.chunk_ns.append(read_ns)
            timeline.chunk_bytes.append(b"".join(self._parts))
            self._parts.clear()

    def _refused(self, read_ns: int) -> None:
        """The server answered in HTTP: its words are the one chunk, as of any HTTP error."""
        timeline = self.timeline
        timeline.first_byte_ns = read_ns
        if self._rejection:
            timeline.chunk_ns.append(read_ns)
            timeline.chunk_bytes.append(b"".join(self._rejection))
        assert timeline.status is not None
        if timeline.status >= 300:
            self._end(read_ns)
        else:
            told = f"The server answered HTTP {timeline.status} and did not switch to WebSocket."
            self._end(read_ns, FailureKind.MALFORMED, told)

    def _closed(self, event: CloseConnection, read_ns: int) -> None:
        reason = clean(event.reason or "") or "no reason given"
        if event.code in _WELL:
            self._end(read_ns)
        elif event.code in _MALFORMED:
            self._end(read_ns, FailureKind.MALFORMED, f"The WebSocket broke its protocol ({event.code}): {reason}.")
        else:
            kind = FailureKind.RATE_LIMITED if event.code == _TRY_AGAIN_LATER else FailureKind.SERVER_ERROR
            self._end(read_ns, kind, f"The server closed the WebSocket with {event.code}: {reason}.")

    def _say(self, event: Event) -> None:
        assert self._connection is not None
        self._connection.send(self._protocol.send(event))

    def _end(self, end_ns: int, kind: FailureKind | None = None, message: str = "") -> None:
        self.timeline.end_ns = end_ns
        self.timeline.failure = None if kind is None else Failure(kind, message)

    def _finish(self) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is None:
            return
        self._deadline.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        on_done(self)
