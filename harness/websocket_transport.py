"""WebSocket over TCP or TLS: one `Timeline` and one socket per request. Needs the extra llmbench[websocket]."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable

from llmbench.engines.wire import Endpoint, Failure, Timeline, WireRequest
from llmbench.harness.connection import Address, Connection
from llmbench.harness.read_poller import LoopPoller
from llmbench.harness.resolution import resolve
from llmbench.harness.tls_connection import TlsConnection
from llmbench.harness.trust import tls_context
from llmbench.harness.websocket_call import WebSocketCall
from llmbench.workloads.spec import TimeoutSpec


class WebSocketTransport:
    """Calls the servers at `endpoints`, whose names are resolved here, before any clock starts.

    An answer ends when its server closes the socket, so every request has its own. Raises ConfigError for authorities
    that cannot be read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoints: Iterable[Endpoint], timeouts: TimeoutSpec) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._addresses: dict[Endpoint, list[Address] | Failure] = {}
        self._tls_contexts: dict[Endpoint, ssl.SSLContext] = {}
        for endpoint in endpoints:
            self._addresses[endpoint] = resolve(endpoint)
            if endpoint.tls:
                context = self._tls_contexts[endpoint] = tls_context(endpoint.tls_ca)
                context.set_alpn_protocols(["http/1.1"])

    def start(
        self, request: WireRequest, timeline: Timeline, on_done: Callable[[WebSocketCall], None]
    ) -> WebSocketCall:
        """The request under way. `on_done` is called once, possibly before this returns, with `timeline` complete."""
        endpoint = request.endpoint
        call = WebSocketCall(self._loop, request, timeline, self._timeouts, on_done)
        addresses = self._addresses[endpoint]
        if isinstance(addresses, Failure):
            call.broken(addresses)
        else:
            call.open(self._connection(endpoint, addresses))
        return call

    def _connection(self, endpoint: Endpoint, addresses: list[Address]) -> Connection:
        if endpoint.tls:
            return TlsConnection(self._loop, addresses, self._tls_contexts[endpoint], endpoint.host, _never_idle)
        return Connection(self._loop, LoopPoller(self._loop), addresses, None, None, _never_idle)


def _never_idle(connection: Connection) -> None:
    raise AssertionError("a WebSocket is closed when its answer has ended")
