"""The transport that each request goes by, made where a load needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter_ns
from typing import Protocol, get_args

from llmbench.engines.wire import Endpoint, Timeline, Transport, WireRequest
from llmbench.harness.departure import SendDue
from llmbench.harness.errors import MissingExtraError
from llmbench.harness.http_transport import HttpTransport
from llmbench.harness.packet_clock import PacketClock
from llmbench.harness.read_poller import nothing_due
from llmbench.harness.wall_offset import WallOffset
from llmbench.workloads.spec import TimeoutSpec


class UnderWay(Protocol):
    """A request that has been started and is not done."""

    def cancel(self, reason: str) -> None:
        """Give up."""
        ...


class Ready(UnderWay, Protocol):
    """A request of which everything is done that can be done before it is due."""

    def go(self) -> None:
        """Send it. What was asked to be told is told once, possibly before this returns."""
        ...

    def outbound(self) -> tuple[int, bytes] | None:
        """A file descriptor and bytes: to write these when it is due, and to tell `gone`, does what `go` would.

        None where it takes more than that.
        """
        ...

    def gone(self, num_sent: int, began_ns: int, sent_ns: int) -> None:
        """What `outbound` gave has been written; see `departure.Departure`."""
        ...


class Transports:
    """What `wires` need, connected to the endpoints they name. Raises MissingExtraError for one without its package.

    `wall_offset`, `packet_clock` and `before_read` are for the sockets that llmbench reads itself: those of HTTP.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wires: Iterable[WireRequest],
        timeouts: TimeoutSpec,
        wall_offset: WallOffset | None,
        packet_clock: PacketClock | None,
        before_read: Callable[[], int] = nothing_due,
    ) -> None:
        endpoints: dict[str, set[Endpoint]] = {name: set() for name in get_args(Transport)}
        for wire in wires:
            endpoints[wire.transport].add(wire.endpoint)
        self._http = HttpTransport(loop, endpoints["http"], timeouts, wall_offset, packet_clock, before_read)
        self._grpc = None
        if endpoints["grpc"]:
            try:
                from llmbench.harness.grpc_transport import GrpcTransport
            except ImportError as error:
                raise MissingExtraError(
                    f'gRPC needs grpcio, which cannot be imported ({error}): pip install "llmbench[grpc]"'
                ) from None
            self._grpc = GrpcTransport(loop, endpoints["grpc"], timeouts)
        self._websocket = None
        if endpoints["websocket"]:
            try:
                from llmbench.harness.websocket_transport import WebSocketTransport
            except ImportError as error:
                raise MissingExtraError(
                    f'WebSocket needs wsproto, which cannot be imported ({error}): pip install "llmbench[websocket]"'
                ) from None
            self._websocket = WebSocketTransport(loop, endpoints["websocket"], timeouts)
        self._hub = None
        if endpoints["hub"]:
            try:
                from llmbench.harness.hub_transport import HubTransport
            except ImportError as error:
                raise MissingExtraError(
                    f"tgi's client needs huggingface_hub, which cannot be imported ({error}): "
                    'pip install "llmbench[hub]"'
                ) from None
            self._hub = HubTransport(loop, endpoints["hub"], timeouts)

    def prepare(self, wire: WireRequest, timeline: Timeline, on_done: Callable[[], None]) -> Ready:
        """The request, to be told to go at once when it is due. `on_done` is called once, with `timeline` complete."""
        if wire.transport == "http":
            return self._http.prepare(wire, timeline, on_done)
        transport = {"websocket": self._websocket, "hub": self._hub, "grpc": self._grpc}[wire.transport]
        assert transport is not None
        return _Unprepared(timeline, partial(transport.start, wire, timeline, lambda call: on_done()))

    @property
    def send_due(self) -> SendDue:
        """What sends requests that are `outbound`."""
        return self._http.send_due

    @property
    def reader(self) -> str:
        """What reads the sockets of HTTP: native, or python."""
        return self._http.reader

    def close(self) -> None:
        """Close connections that are idle, and calls that nobody waits for. The loop must not be running."""
        self._http.close()
        for transport in (self._grpc, self._hub):
            if transport is not None:
                transport.close()


class _Unprepared:
    """A request of a transport that does everything when it starts."""

    def __init__(self, timeline: Timeline, start: Callable[[], UnderWay]) -> None:
        self._timeline = timeline
        self._start = start
        self._call: UnderWay | None = None

    def go(self) -> None:
        self._timeline.begun_ns = perf_counter_ns()
        self._call = self._start()

    def outbound(self) -> None:
        """None: it takes all that `go` does."""

    def gone(self, num_sent: int, began_ns: int, sent_ns: int) -> None:
        raise AssertionError("nothing was outbound")

    def cancel(self, reason: str) -> None:
        if self._call is not None:
            self._call.cancel(reason)
