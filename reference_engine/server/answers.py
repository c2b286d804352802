"""One request's answer, whole or as the events of a stream, whatever carries them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from starlette.types import Receive

from llmbench.reference_engine.server.formats import DONE, AnswerFormat, Usage
from llmbench.reference_engine.server.generation import Delta, Generating, merged
from llmbench.reference_engine.server.logs import CLIENT_LEFT, log


class Answer(NamedTuple):
    """What one request asked for: some generations, and how to write them down."""

    generations: Sequence[Generating]  # as many for each prompt, one prompt after the other
    prompt_lengths: Sequence[int]
    format: AnswerFormat
    request_id: str
    is_streamed: bool
    include_usage: bool
    continuous_usage: bool
    with_token_ids: bool

    def usage(self) -> Usage:
        return Usage(self.prompt_lengths, len(self.generations) // len(self.prompt_lengths))

    def log(self, usage: Usage) -> None:
        """The line of a request that was answered to its end."""
        log.info("answered", request_id=self.request_id, object=self.format.object_name, **usage.facts())


async def whole(answer: Answer) -> bytes:
    """All of the answer as JSON, when the last token is there."""
    usage = answer.usage()
    deltas: list[list[Delta]] = [[] for _ in answer.generations]
    async with aclosing(merged(answer.generations)) as arriving:
        async for index, delta in arriving:
            deltas[index].append(delta)
            usage.note(index, delta)
    choices = [
        answer.format.whole_choice(index, deltas[index], generation.prompt_token_ids)
        for index, generation in enumerate(answer.generations)
    ]
    answer.log(usage)
    return answer.format.whole(choices, usage.json())


async def events(answer: Answer) -> AsyncGenerator[list[bytes], None]:
    """The JSON of each event as it comes, [DONE] last; those of one list are there at the same time."""
    usage = answer.usage()
    is_first = [True] * len(answer.generations)
    async with aclosing(merged(answer.generations)) as arriving:
        async for index, delta in arriving:
            opening, prompt_token_ids = None, None
            usage.note(index, delta)
            if is_first[index]:
                is_first[index] = False
                opening = answer.format.opening(index)
                if answer.with_token_ids:
                    prompt_token_ids = answer.generations[index].prompt_token_ids
            # OpenAI's clients are told in every event that usage will come.
            so_far = usage.json() if answer.continuous_usage else "null" if answer.include_usage else None
            chunk = answer.format.chunk(index, delta, so_far, prompt_token_ids)
            yield [chunk] if opening is None else [opening, chunk]
    answer.log(usage)
    yield [answer.format.usage_chunk(usage.json()), DONE] if answer.include_usage else [DONE]


async def until_disconnect(receive: Receive, request_id: str, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; cancel it if the client goes away first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_cancel_on_disconnect(receive, working))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done() and not working.cancelled():
            working.result()
        else:
            log.info(CLIENT_LEFT, request_id=request_id)
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _cancel_on_disconnect(receive: Receive, working: asyncio.Future[None]) -> None:
    while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
        pass
    # Here and not by who waits for this: work that waited for the client to read has its turn before, and would write
    # the rest of a long answer for nobody without a pause.
    working.cancel()
