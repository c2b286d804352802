"""The transport that each request goes by, made where a load needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol, get_args

from llmbench.engines.wire import Endpoint, Timeline, Transport, WireRequest
from llmbench.harness.errors import MissingExtraError
from llmbench.harness.http_transport import HttpTransport
from llmbench.harness.packet_clock import PacketClock
from llmbench.harness.wall_offset import WallOffset
from llmbench.workloads.spec import TimeoutSpec


class UnderWay(Protocol):
    """A request that has been started and is not done."""

    def cancel(self, reason: str) -> None:
        """Give up."""
        ...


class Transports:
    """What `wires` need, connected to the endpoints they name. Raises MissingExtraError for one without its package.

    `wall_offset` and `packet_clock` are for the sockets that llmbench reads itself: those of HTTP.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wires: Iterable[WireRequest],
        timeouts: TimeoutSpec,
        wall_offset: WallOffset | None,
        packet_clock: PacketClock | None,
    ) -> None:
        endpoints: dict[str, set[Endpoint]] = {name: set() for name in get_args(Transport)}
        for wire in wires:
            endpoints[wire.transport].add(wire.endpoint)
        self._http = HttpTransport(loop, endpoints["http"], timeouts, wall_offset, packet_clock)
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

    def start(self, wire: WireRequest, timeline: Timeline, on_done: Callable[[UnderWay], None]) -> UnderWay:
        """The request under way. `on_done` is called once, possibly before this returns, with `timeline` complete."""
        if wire.transport == "http":
            return self._http.start(wire, timeline, on_done)
        if wire.transport == "websocket":
            assert self._websocket is not None
            return self._websocket.start(wire, timeline, on_done)
        if wire.transport == "hub":
            assert self._hub is not None
            return self._hub.start(wire, timeline, on_done)
        assert self._grpc is not None
        return self._grpc.start(wire, timeline, on_done)

    def close(self) -> None:
        """Close connections that are idle, and calls that nobody waits for. The loop must not be running."""
        self._http.close()
        for transport in (self._grpc, self._hub):
            if transport is not None:
                transport.close()
