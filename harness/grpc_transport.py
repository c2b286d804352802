"""gRPC over HTTP/2: one `Timeline` per call, one channel per engine. Needs the extra llmbench[grpc].

A chunk is one message of the answer, stamped as it leaves the library and before anybody decodes it. The library reads
in a thread of its own, so these stamps are later than the kernel's by what handing over takes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter_ns

import grpc.aio

from llmbench.engines.server_message import clean
from llmbench.engines.wire import Endpoint, Failure, FailureKind, Timeline, WireRequest
from llmbench.harness.library_call import LibraryCall, given_up
from llmbench.workloads.spec import TimeoutSpec

# How long calls that were given up and must not be cancelled may go on after the load.
DRAIN_S = 10.0

# Of every answer, so that who decodes it can tell it from one that came by HTTP.
CONTENT_TYPE = ("content-type", "application/grpc")

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    # One request answers for its own failure: the library would send it again where it thinks that safe.
    ("grpc.enable_retries", 0),
    # Without it channels to one address share a connection, and one engine's trial begins on another's.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcTransport:
    """Calls the servers at `endpoints`; a channel connects with its first call, and calls share its connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoints: Iterable[Endpoint], timeouts: TimeoutSpec) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._calls: set[LibraryCall] = set()
        self._channels = loop.run_until_complete(_open_channels(endpoints))

    def start(self, request: WireRequest, timeline: Timeline, on_done: Callable[[LibraryCall], None]) -> GrpcCall:
        """The call under way. `on_done` is called once, after this has returned, with `timeline` complete."""
        channel = self._channels[request.endpoint]
        call = GrpcCall(self._loop, channel, request, timeline, self._timeouts, on_done, self._calls.discard)
        self._calls.add(call)
        return call

    def close(self) -> None:
        """Give up what is under way, and close the channels. The loop must not be running.

        Calls that their servers could not bear to lose get `DRAIN_S` to end.
        """
        self._loop.run_until_complete(self._close())

    async def _close(self) -> None:
        await given_up(self._calls, DRAIN_S)
        for channel in self._channels.values():
            await channel.close()


class GrpcCall(LibraryCall):
    """A call to the method that `request` names."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: grpc.aio.Channel,
        request: WireRequest,
        timeline: Timeline,
        timeouts: TimeoutSpec,
        on_done: Callable[[LibraryCall], None],
        on_ended: Callable[[LibraryCall], None],
    ) -> None:
        self._channel = channel
        self._total_s = timeouts.total_s
        super().__init__(loop, request, timeline, timeouts, on_done, on_ended)

    async def _exchange(self) -> Failure | None:
        try:
            failure = await self._connect()
            if failure is None:
                await self._ask()
        except grpc.aio.AioRpcError as error:
            return self._failure(error.code(), error.details())
        return failure

    async def _connect(self) -> Failure | None:
        channel, state = self._channel, self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            # The library tries again by itself, after a second at most; a request does not wait for that.
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                return Failure(FailureKind.CONNECT, f"No connection to {self._request.endpoint.url}.")
            await channel.wait_for_state_change(state)
            state = channel.get_state(try_to_connect=True)
        self.timeline.connect_ns = perf_counter_ns()
        return None

    async def _ask(self) -> None:
        timeline, request = self.timeline, self._request
        # A deadline that a server knows is a cancel to it when it passes.
        timeout_s = self._total_s if request.may_cancel else None
        # A stream of one message looks the same to a server that takes just one, and tells when it has gone out.
        call: grpc.aio.StreamStreamCall[bytes, bytes] = self._channel.stream_stream(request.method)(
            timeout=timeout_s, metadata=_metadata(request)
        )
        with contextlib.suppress(asyncio.InvalidStateError):  # the server has ended the call: reading says why
            await call.write(request.payload)
            timeline.sent_ns = perf_counter_ns()
            await call.done_writing()
        while True:
            message = await call.read()
            now_ns = perf_counter_ns()
            if message is grpc.aio.EOF:
                return
            if self.is_given_up:  # and left to run out
                continue
            assert isinstance(message, bytes)
            self._take(message, now_ns)
            timeline.headers = [CONTENT_TYPE]

    def _failure(self, code: grpc.StatusCode, details: str | None) -> Failure:
        kinds = {
            grpc.StatusCode.DEADLINE_EXCEEDED: FailureKind.TOTAL_TIMEOUT,
            grpc.StatusCode.RESOURCE_EXHAUSTED: FailureKind.RATE_LIMITED,
            grpc.StatusCode.UNAVAILABLE: FailureKind.CONNECT
            if self.timeline.sent_ns is None
            else FailureKind.TRUNCATED,
            grpc.StatusCode.CANCELLED: FailureKind.TRUNCATED,
        }
        kind = kinds.get(code, FailureKind.SERVER_ERROR)
        if code is grpc.StatusCode.INTERNAL and self.timeline.sent_ns is None:
            # A status that overtakes the request is lost in the library: it tells of its own failed write instead.
            return Failure(kind, "The server refused the call before it had taken the request.")
        return Failure(kind, f"The call ended with {code.name}: {clean(details or '') or 'no message'}")


async def _open_channels(endpoints: Iterable[Endpoint]) -> dict[Endpoint, grpc.aio.Channel]:
    # In the running loop, to which the library binds a channel.
    channels = {}
    for endpoint in set(endpoints):
        target = f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"
        if endpoint.unix_path is not None:
            target = f"unix:{endpoint.unix_path}"
        if endpoint.tls:
            channels[endpoint] = grpc.aio.secure_channel(target, _credentials(endpoint), options=_CHANNEL_OPTIONS)
        else:
            channels[endpoint] = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
    return channels


def _credentials(endpoint: Endpoint) -> grpc.ChannelCredentials:
    roots = None if endpoint.tls_ca is None else Path(endpoint.tls_ca).read_bytes()
    credentials: grpc.ChannelCredentials = grpc.ssl_channel_credentials(root_certificates=roots)
    return credentials


def _metadata(request: WireRequest) -> tuple[tuple[str, str], ...]:
    key = request.endpoint.api_key
    return () if key is None else (("authorization", f"Bearer {key}"),)
