"""One request's answer as it grows: the engine's tokens turned into text, cut at a stop string."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.sampling import SamplingParams, TokenLogprobs
from llmbench.reference_engine.server.engine_client import EngineClient
from llmbench.reference_engine.server.metrics import RequestClock, ServerMetrics
from llmbench.reference_engine.tokenizer import StopStrings, Tokenizer

_request_numbers = itertools.count()


def next_request_id() -> str:
    """The engine's name for a request: ours, for two of a client's requests may carry the same id at the same time."""
    return str(next(_request_numbers))


class Delta(NamedTuple):
    """What one step added. `text` may be empty: a character or a stop string may not be decided yet.

    `num_output_tokens` counts from the beginning of the answer, drafts are those of this step. `stop_reason` is the
    stop string or the id of the stop token that ended it, None for every other end.
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    num_output_tokens: int
    num_cached_tokens: int
    finish_reason: str | None
    stop_reason: str | int | None
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


class Generating(Protocol):
    """What an answer's choice is made of."""

    prompt_token_ids: list[int]

    def deltas(self) -> AsyncGenerator[Delta, None]: ...


class Generation:
    """One prompt to be continued; nothing happens before `deltas` is iterated."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        metrics: ServerMetrics,
        prompt_token_ids: list[int],
        params: SamplingParams,
        stop: Sequence[str],
        priority: int,
        user: str | None,
    ) -> None:
        self.prompt_token_ids = prompt_token_ids
        self._engine = engine
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._params = params
        self._stop = StopStrings(stop, params.min_tokens)
        self._priority = priority
        self._user = user

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """One per step that brought a token. If it is left before its end, the engine forgets the request.

        Raises RequestError if the engine refuses it, BusyError if it has no room for it by now, EngineDiedError if the
        engine is gone.
        """
        request_id = next_request_id()
        # The form of an answer says how it begins, as a text by itself.
        is_apart = self._params.grammar is not None
        detokenizer = self._tokenizer.stream([] if is_apart else self.prompt_token_ids)
        num_output_tokens = 0
        finish_reason: str | None = None
        clock = RequestClock(self._metrics, len(self.prompt_token_ids))
        stream = self._engine.submit(request_id, self.prompt_token_ids, self._params, self._priority, self._user)
        try:
            while finish_reason is None:
                output = await stream.next()
                clock.tokens_came()
                shown, token_ids = "", output.new_token_ids
                stopped_by: str | None = None
                for place, token_id in enumerate(output.new_token_ids, 1):
                    num_output_tokens += 1
                    # As a stop text, a stop token is not part of what is shown.
                    is_stop = token_id in self._params.stop_token_ids
                    settled, stopped_by = self._stop.push("" if is_stop else detokenizer.push(token_id))
                    shown += settled
                    if stopped_by is not None:
                        token_ids = token_ids[:place]
                        break
                if stopped_by is not None:
                    finish_reason = "stop"
                    self._engine.finish(request_id, aborted=False)
                elif output.finish_reason is not None:
                    finish_reason = output.finish_reason
                    shown += self._stop.flush()
                if finish_reason is not None:
                    clock.finished(finish_reason, num_output_tokens, output.times)
                stop_token = token_ids[-1] if token_ids and token_ids[-1] in self._params.stop_token_ids else None
                yield Delta(
                    text=shown,
                    token_ids=token_ids,
                    logprobs=None if output.logprobs is None else output.logprobs[: len(token_ids)],
                    num_output_tokens=num_output_tokens,
                    num_cached_tokens=output.num_cached_tokens,
                    finish_reason=finish_reason,
                    stop_reason=stopped_by if stopped_by is not None or finish_reason != "stop" else stop_token,
                    num_draft_tokens=output.num_draft_tokens,
                    num_accepted_tokens=output.num_accepted_tokens,
                )
        except RequestError:  # refused: no request that ended
            raise
        except BaseException:  # left by its client, or failed
            if finish_reason is None:
                clock.given_up()
            raise
        finally:
            self._engine.finish(request_id, aborted=True)


async def merged(generations: Sequence[Generating]) -> AsyncGenerator[tuple[int, Delta], None]:
    """The deltas of several generations as they come, each with the index of its own; the first error ends them all."""
    if len(generations) == 1:
        async with aclosing(generations[0].deltas()) as deltas:
            async for delta in deltas:
                yield 0, delta
        return
    arrived: asyncio.Queue[tuple[int, Delta | Exception | None]] = asyncio.Queue()

    async def forward(index: int) -> None:
        try:
            async with aclosing(generations[index].deltas()) as deltas:
                async for delta in deltas:
                    arrived.put_nowait((index, delta))
        except Exception as error:
            arrived.put_nowait((index, error))
        else:
            arrived.put_nowait((index, None))

    tasks = [asyncio.create_task(forward(index)) for index in range(len(generations))]
    try:
        num_open = len(tasks)
        while num_open:
            index, item = await arrived.get()
            if item is None:
                num_open -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
