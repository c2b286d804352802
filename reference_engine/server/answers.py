"""Generations as HTTP answers: whole, or one server-sent event per step. A client that leaves ends its generations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmbench.reference_engine.server.errors import as_api_error
from llmbench.reference_engine.server.formats import DONE, AnswerFormat, Usage
from llmbench.reference_engine.server.generation import Delta, Generation, merged
from llmbench.reference_engine.server.logs import log_event

logger = logging.getLogger("llmbench.reference_engine")


class Answer(NamedTuple):
    """What one HTTP request asked for: some generations, and how to write them down."""

    generations: Sequence[Generation]
    num_prompt_tokens: int
    format: AnswerFormat
    request_id: str
    include_usage: bool
    continuous_usage: bool
    with_token_ids: bool

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-request-id", self.request_id.encode("latin-1"))]

    def usage(self) -> Usage:
        return Usage(self.num_prompt_tokens, len(self.generations))


class WholeResponse(Response):
    """All text at once, when the last token is there."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._answer.request_id, self._respond(send))

    async def _respond(self, send: Send) -> None:
        answer, usage = self._answer, self._answer.usage()
        deltas: list[list[Delta]] = [[] for _ in answer.generations]
        async with aclosing(merged(answer.generations)) as arriving:
            async for index, delta in arriving:
                deltas[index].append(delta)
                usage.note(index, delta)
        choices = [
            answer.format.whole_choice(index, deltas[index], generation.prompt_token_ids)
            for index, generation in enumerate(answer.generations)
        ]
        body = answer.format.whole(choices, usage.json())
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *answer.headers,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        usage.log(answer.request_id)


class StreamResponse(Response):
    """Server-sent events. Headers go out with the first token, so that a refused request still gets its status."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._answer.request_id, self._respond(send))

    async def _respond(self, send: Send) -> None:
        is_open = False
        try:
            async with aclosing(self._events()) as events:
                async for event in events:
                    if not is_open:
                        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), *self._answer.headers]
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                        is_open = True
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        except Exception as error:
            if not is_open:
                raise
            # Too late for a status: an event that carries the error, and no [DONE] after it.
            failure = as_api_error(error)
            await send({"type": "http.response.body", "body": b"data: " + failure.body() + b"\n\n"})
            return
        await send({"type": "http.response.body", "body": b""})

    async def _events(self) -> AsyncGenerator[bytes, None]:
        answer, usage = self._answer, self._answer.usage()
        is_first = [True] * len(answer.generations)
        async with aclosing(merged(answer.generations)) as arriving:
            async for index, delta in arriving:
                opening, prompt_token_ids = b"", None
                usage.note(index, delta)
                if is_first[index]:
                    is_first[index] = False
                    opening = answer.format.opening(index)
                    if answer.with_token_ids:
                        prompt_token_ids = answer.generations[index].prompt_token_ids
                so_far = usage.json() if answer.continuous_usage else None
                yield opening + answer.format.chunk(index, delta, so_far, prompt_token_ids)
        usage.log(answer.request_id)
        yield (answer.format.usage_chunk(usage.json()) if answer.include_usage else b"") + DONE


async def until_disconnect(receive: Receive, request_id: str, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; cancel it if the client goes away first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        else:
            log_event(logger, "client left", request_id=request_id)
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
