"""HTTP/1.1 over TCP, TLS or a Unix socket: one `Timeline` per request, connections kept alive per engine."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Callable, Iterable
from functools import partial

from llmbench.engines.wire import Endpoint, Failure, Timeline, WireRequest
from llmbench.harness.chunk_log import ChunkLog, PythonChunkLog
from llmbench.harness.connection import Address, Connection
from llmbench.harness.departure import SendDue, send_due
from llmbench.harness.epoll_reads import EpollReads
from llmbench.harness.exchange import Exchange
from llmbench.harness.native_reads import NativeReads, chosen_reader
from llmbench.harness.packet_clock import PacketClock
from llmbench.harness.read_poller import LoopPoller, ReadPoller, Reads, RestingPoller, nothing_due
from llmbench.harness.resolution import resolve
from llmbench.harness.response_reader import MAX_BODY_BYTES
from llmbench.harness.tls_connection import TlsConnection
from llmbench.harness.trust import tls_context
from llmbench.harness.unix_connection import UnixConnection
from llmbench.harness.wall_offset import WallOffset
from llmbench.workloads.spec import TimeoutSpec


class HttpTransport:
    """Sends requests to `endpoints`, whose names are resolved here, before any clock starts.

    Nothing is ever sent twice: a connection that the server has closed is noticed before it is used again, and one that
    breaks after that fails its request. With `wall_offset`, plain TCP connections carry the kernel's receive stamps,
    and `before_read` is called before they are read, and again once the instant that it gave has passed; with
    `packet_clock`, they carry those of every segment. Raises ConfigError for authorities that cannot be read.

    `reader` says what reads them, native or python, and `send_due` sends what is `outbound`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoints: Iterable[Endpoint],
        timeouts: TimeoutSpec,
        wall_offset: WallOffset | None,
        packet_clock: PacketClock | None = None,
        before_read: Callable[[], int] = nothing_due,
    ) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._wall_offset = wall_offset
        self._packet_clock = packet_clock
        self._new_log: Callable[[], ChunkLog] = PythonChunkLog
        self._poller: ReadPoller = LoopPoller(loop)
        self.reader = "python"
        self.send_due: SendDue = send_due
        # Only what the kernel stamps may be read late.
        if wall_offset is not None and sys.platform == "linux":
            native = chosen_reader()
            reads: Reads
            if native is None:
                reads = EpollReads(before_read)
            else:
                reads = NativeReads(native, wall_offset, before_read)
                self._new_log = partial(native.ChunkLog, MAX_BODY_BYTES)
                self.reader = "native"
                self.send_due = native.send_due
            self._poller = RestingPoller(loop, reads)
        self._tls_contexts: dict[Endpoint, ssl.SSLContext] = {}
        self._addresses: dict[Endpoint, list[Address] | Failure] = {}
        self._idle: dict[Endpoint, list[Connection]] = {}
        for endpoint in set(endpoints):
            self._addresses[endpoint] = resolve(endpoint) if endpoint.unix_path is None else []
            self._idle[endpoint] = []
            if endpoint.tls:
                context = self._tls_contexts[endpoint] = tls_context(endpoint.tls_ca)
                context.set_alpn_protocols(["http/1.1"])

    def prepare(self, request: WireRequest, timeline: Timeline, on_done: Callable[[], None]) -> Exchange:
        """The request, on a connection that is idle or yet to be made. `on_done` is called once, with `timeline`
        complete."""
        endpoint = request.endpoint
        clock = self._packet_clock if endpoint.is_plain_tcp else None
        pool = (self._connection, self._keep)
        log = self._new_log()
        exchange = Exchange(self._loop, endpoint, request.payload, timeline, self._timeouts, clock, log, on_done, *pool)
        addresses = self._addresses[endpoint]
        exchange.prepare(addresses if isinstance(addresses, Failure) else self._idle_connection(endpoint))
        return exchange

    def close(self) -> None:
        """Close the idle connections. Requests must not be under way any more."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()
        self._poller.close()

    def _idle_connection(self, endpoint: Endpoint) -> Connection | None:
        idle = self._idle[endpoint]
        while idle:
            connection = idle.pop()
            if connection.is_good():
                return connection
        return None

    def _connection(self, endpoint: Endpoint) -> Connection:
        """One that is idle, or one that has yet to be opened."""
        connection = self._idle_connection(endpoint)
        if connection is not None:
            return connection
        addresses = self._addresses[endpoint]
        assert not isinstance(addresses, Failure)

        def forget(connection: Connection) -> None:
            if connection in self._idle[endpoint]:
                self._idle[endpoint].remove(connection)

        if endpoint.unix_path is not None:
            return UnixConnection(self._loop, endpoint.unix_path, forget)
        if endpoint.tls:
            return TlsConnection(self._loop, addresses, self._tls_contexts[endpoint], endpoint.host, forget)
        return Connection(self._loop, self._poller, addresses, self._wall_offset, self._packet_clock, forget)

    def _keep(self, connection: Connection, endpoint: Endpoint) -> None:
        self._idle[endpoint].append(connection)
