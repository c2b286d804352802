"""The server's end of the engine process: starts it, sends it requests, hands its outputs to who waits for them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

from llmbench.reference_engine.beam_search import BeamParams
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.outputs import EngineStats, StepOutput
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.server.channel import (
    CannotStart,
    Finish,
    FrameReader,
    Ready,
    Refused,
    Stepped,
    Submit,
    frame,
)
from llmbench.reference_engine.server.errors import BusyError, EngineDiedError, EngineStartError
from llmbench.reference_engine.server.logs import LogFormat

# The engine notices the closed socket between two steps; a step of a large model's prefill takes its time.
_STOP_S = 3.0


class Stream:
    """The outputs of one request, as steps bring them."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[StepOutput | Exception] = asyncio.Queue()

    def put(self, item: StepOutput | Exception) -> None:
        self._queue.put_nowait(item)

    async def next(self) -> StepOutput:
        """Raises RequestError if the engine refused the request, EngineDiedError if it is gone."""
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item


class EngineClient(asyncio.Protocol):
    """One engine process. `stats` is how it stood after its last step; `ready` what it said when it was loaded.

    `on_death` is called once if the process ends before `stop`, after every waiting request has been failed. It has
    room for `max_requests`, running and waiting ones together.
    """

    def __init__(self, on_death: Callable[[], None], max_requests: int, log_format: LogFormat = "text") -> None:
        self.ready: Ready | None = None
        self.stats: EngineStats | None = None
        self._on_death = on_death
        self._max_requests = max_requests
        self._log_format = log_format
        self._streams: dict[str, Stream] = {}
        self._reader = FrameReader()
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    @property
    def num_requests(self) -> int:
        """Requests submitted and not done: running or waiting."""
        return len(self._streams)

    async def start(self, config: EngineConfig) -> None:
        """Returns when the model is loaded. Raises EngineStartError, or EngineDiedError if it ended without a word."""
        ours, theirs = socket.socketpair()
        with theirs:
            module = "llmbench.reference_engine.server.engine_process"
            argv = [sys.executable, "-m", module, str(theirs.fileno()), self._log_format]
            self._process = subprocess.Popen(  # noqa: ASYNC220 - returns after the fork; the model loads meanwhile
                argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno()
            )
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        self._send(config)
        await self._started

    def submit(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams | BeamParams,
        priority: int,
        user: str | None,
    ) -> Stream:
        """Raises BusyError: others may have come since the room was looked at."""
        self.check_room(1)
        stream = Stream()
        if self._transport is None:
            stream.put(EngineDiedError())
            return stream
        assert request_id not in self._streams
        self._streams[request_id] = stream
        self._send(Submit(request_id, prompt_token_ids, params, priority, user))
        return stream

    def check_room(self, num_requests: int) -> None:
        """Raises BusyError if so many more have no room by now, RequestError if they never will."""
        if num_requests > self._max_requests:
            raise RequestError(
                f"The request asks for {num_requests} answers, beams included; this server computes and keeps waiting "
                f"at most {self._max_requests} together. Ask for fewer prompts at a time."
            )
        if self.num_requests + num_requests > self._max_requests:
            raise BusyError(self._max_requests)

    def finish(self, request_id: str, aborted: bool) -> None:
        """No more of this request is wanted; nothing happens if it is done already."""
        if self._streams.pop(request_id, None) is not None and self._transport is not None:
            self._send(Finish(request_id, aborted))

    def fail_all(self, error: Exception) -> None:
        """End every request with `error`, for those who wait for it."""
        for request_id, stream in list(self._streams.items()):
            stream.put(error)
            self.finish(request_id, aborted=True)

    def request_stop(self) -> None:
        """Let the engine end after its step; `stop` waits for it."""
        self._is_stopping = True
        if self._transport is not None:
            self._transport.close()

    def stop(self) -> None:
        """End the process, by force if it does not listen. Does nothing if it never started or is gone."""
        self._is_stopping = True
        if self._process is None:
            return
        try:
            self._process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            self._receive(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for stream in self._streams.values():
            stream.put(EngineDiedError())
        self._streams.clear()
        if not self._started.done():
            self._started.set_exception(EngineDiedError())
        elif not self._is_stopping:
            self._is_stopping = True
            self._on_death()

    def _receive(self, message: Any) -> None:
        match message:
            case Stepped(outputs, stats):
                self.stats = stats
                for output in outputs:
                    self._deliver(output)
            case Refused(request_id, sentence):
                stream = self._streams.pop(request_id, None)
                if stream is not None:
                    stream.put(RequestError(sentence))
            case Ready():
                self.ready = message
                self.stats = message.stats
                self._started.set_result(None)
            case CannotStart(sentence):
                self._is_stopping = True
                self._started.set_exception(EngineStartError(sentence))
            case _:
                raise AssertionError(f"no such message: {message!r}")

    def _deliver(self, output: StepOutput) -> None:
        # Given up in this very step: its last output is nobody's.
        stream = self._streams.get(output.request_id)
        if stream is None:
            return
        if output.finish_reason is not None:
            del self._streams[output.request_id]
        stream.put(output if output.error is None else RequestError(output.error))

    def _send(self, message: object) -> None:
        assert self._transport is not None
        self._transport.write(frame(message))
