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
from llmbench.harness.deadline import Deadline
from llmbench.workloads.spec import TimeoutSpec

_STREAM, _WHOLE = ("content-type", "text/event-stream"), ("content-type", "application/json")
_RATE_LIMITED = 429


class HubTransport:
    """Asks the routers at `endpoints`, each through one client, which keeps its connections alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoints: Iterable[Endpoint], timeouts: TimeoutSpec) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._calls: set[HubCall] = set()
        self._clients = {
            endpoint: AsyncInferenceClient(endpoint.url, headers=_authorization(endpoint), timeout=timeouts.total_s)
            for endpoint in set(endpoints)
        }

    def start(self, request: WireRequest, timeline: Timeline, on_done: Callable[[HubCall], None]) -> HubCall:
        """The call under way. `on_done` is called once, after this has returned, with `timeline` complete."""
        call = HubCall(self._loop, self._clients[request.endpoint], request, timeline, self._timeouts, on_done)
        self._calls.add(call)
        call.task.add_done_callback(lambda task: self._calls.discard(call))
        return call

    def close(self) -> None:
        """Give up what is under way, and close the clients. The loop must not be running."""
        self._loop.run_until_complete(self._close())

    async def _close(self) -> None:
        tasks = [call.task for call in self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.close()  # type: ignore[no-untyped-call]


class HubCall:
    """Fills `timeline` and calls `on_done` once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: AsyncInferenceClient,
        request: WireRequest,
        timeline: Timeline,
        timeouts: TimeoutSpec,
        on_done: Callable[[HubCall], None],
    ) -> None:
        self.timeline = timeline
        self._client = client
        self._arguments: dict[str, Any] = json.loads(request.payload)
        self._on_done: Callable[[HubCall], None] | None = on_done
        self._deadline = Deadline(loop, timeline, timeouts, self._last_chunk_ns, self._give_up)
        self._deadline.arm()
        self.task = loop.create_task(self._run())

    def cancel(self, reason: str) -> None:
        """Give up."""
        self._give_up(Failure(FailureKind.CANCELLED, reason))

    def _last_chunk_ns(self) -> int | None:
        return self.timeline.chunk_ns[-1] if self.timeline.chunk_ns else None

    def _give_up(self, failure: Failure) -> None:
        self._finish(failure)
        self.task.cancel()

    def _finish(self, failure: Failure | None) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is None:
            return
        self._deadline.close()
        self.timeline.end_ns = perf_counter_ns()
        self.timeline.failure = failure
        on_done(self)

    async def _run(self) -> None:
        failure: Failure | None = None
        timeline = self.timeline
        # When it connects only the client knows.
        timeline.connect_ns = timeline.sent_ns = perf_counter_ns()
        try:
            answer = await self._client.text_generation(**self._arguments)
            timeline.status, timeline.headers = 200, [_STREAM if self._arguments["stream"] else _WHOLE]
            if self._arguments["stream"]:
                async for event in answer:
                    self._take(b"data:%b\n\n", event)
            else:
                self._take(b"%b", answer)
        except Exception as error:
            # Whatever the client raises, this one request has failed by it.
            failure = self._failure(error)
        self._finish(failure)

    def _take(self, form: bytes, event: Any) -> None:
        now_ns = perf_counter_ns()
        if self.timeline.first_byte_ns is None:
            self.timeline.first_byte_ns = now_ns
        self.timeline.chunk_ns.append(now_ns)
        self.timeline.chunk_bytes.append(form % json.dumps(asdict(event)).encode())

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


def _authorization(endpoint: Endpoint) -> dict[str, str]:
    # Never left out: the client would send the token of the hub that this machine is logged in with.
    return {"authorization": f"Bearer {endpoint.api_key}" if endpoint.api_key is not None else ""}
