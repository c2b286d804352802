"""Text Generation Inference through `huggingface_hub.AsyncInferenceClient`, as its users have it. Needs llmbench[hub].

What is measured is server and client together. The client gives whole events and nothing of its socket: a chunk is an
event written as JSON again, stamped when the client handed it over; a request counts as sent when the client got it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from time import perf_counter_ns
from typing import Any

from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError, OverloadedError, TextGenerationError

from llmbench.engines.server_message import clean
from llmbench.engines.wire import Endpoint, Failure, FailureKind, Timeline, WireRequest
from llmbench.harness.library_call import LibraryCall, given_up
from llmbench.workloads.spec import TimeoutSpec

_STREAM, _WHOLE = ("content-type", "text/event-stream"), ("content-type", "application/json")
_RATE_LIMITED = 429


class HubTransport:
    """Asks the routers at `endpoints`, each through one client, which keeps its connections alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoints: Iterable[Endpoint], timeouts: TimeoutSpec) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._calls: set[LibraryCall] = set()
        self._clients = {
            endpoint: AsyncInferenceClient(endpoint.url, headers=_authorization(endpoint), timeout=timeouts.total_s)
            for endpoint in set(endpoints)
        }

    def start(self, request: WireRequest, timeline: Timeline, on_done: Callable[[LibraryCall], None]) -> HubCall:
        """The call under way. `on_done` is called once, after this has returned, with `timeline` complete."""
        call = HubCall(
            self._loop,
            self._clients[request.endpoint],
            request,
            timeline,
            self._timeouts,
            on_done,
            self._calls.discard,
        )
        self._calls.add(call)
        return call

    def close(self) -> None:
        """Give up what is under way, and close the clients. The loop must not be running."""
        self._loop.run_until_complete(self._close())

    async def _close(self) -> None:
        await given_up(self._calls, 0)
        for client in self._clients.values():
            await client.close()  # type: ignore[no-untyped-call]


class HubCall(LibraryCall):
    """A call of the client's `text_generation`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: AsyncInferenceClient,
        request: WireRequest,
        timeline: Timeline,
        timeouts: TimeoutSpec,
        on_done: Callable[[LibraryCall], None],
        on_ended: Callable[[LibraryCall], None],
    ) -> None:
        self._client = client
        self._arguments: dict[str, Any] = json.loads(request.payload)
        super().__init__(loop, request, timeline, timeouts, on_done, on_ended)

    async def _exchange(self) -> Failure | None:
        timeline = self.timeline
        # When it connects only the client knows.
        timeline.connect_ns = timeline.sent_ns = perf_counter_ns()
        try:
            answer = await self._client.text_generation(**self._arguments)
            timeline.status, timeline.headers = 200, [_STREAM if self._arguments["stream"] else _WHOLE]
            if self._arguments["stream"]:
                async for event in answer:
                    now_ns = perf_counter_ns()
                    self._take(b"data:%b\n\n" % _written(event), now_ns)
            else:
                now_ns = perf_counter_ns()
                self._take(_written(answer), now_ns)
        except Exception as error:
            # Whatever the client raises, this one request has failed by it.
            return self._failure(error)
        return None

    def _failure(self, error: Exception) -> Failure:
        said = clean(str(error)) or type(error).__name__
        if isinstance(error, OverloadedError):
            return Failure(FailureKind.RATE_LIMITED, f"The client raised: {said}")
        if isinstance(error, TextGenerationError):
            return Failure(FailureKind.SERVER_ERROR, f"The client raised: {said}")
        if isinstance(error, InferenceTimeoutError):
            return Failure(FailureKind.TOTAL_TIMEOUT, said)
        if isinstance(error, HfHubHTTPError):
            self.timeline.status = error.response.status_code
            limited = error.response.status_code == _RATE_LIMITED
            return Failure(FailureKind.RATE_LIMITED if limited else FailureKind.HTTP_STATUS, said)
        kind = FailureKind.TRUNCATED if self.timeline.chunk_ns else FailureKind.CONNECT
        return Failure(kind, f"The client raised {type(error).__name__}: {said}")


def _written(event: Any) -> bytes:
    return json.dumps(asdict(event)).encode()


def _authorization(endpoint: Endpoint) -> dict[str, str]:
    # Never left out: the client would send the token of the hub that this machine is logged in with.
    return {"authorization": f"Bearer {endpoint.api_key}" if endpoint.api_key is not None else ""}
