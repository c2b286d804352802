"""The answers of a beam search: one request to the engine, whose beams come all at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from llmbench.reference_engine.beam_search import BeamParams
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.outputs import StepOutput
from llmbench.reference_engine.server.engine_client import EngineClient
from llmbench.reference_engine.server.generation import Delta, next_request_id
from llmbench.reference_engine.server.metrics import RequestClock, ServerMetrics
from llmbench.reference_engine.tokenizer import StopStrings, Tokenizer


class BeamSearch:
    """One prompt to be searched; the search begins when the first of its answers is asked for."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        metrics: ServerMetrics,
        prompt_token_ids: list[int],
        params: BeamParams,
        priority: int,
        user: str | None,
    ) -> None:
        self.prompt_token_ids = prompt_token_ids
        self.tokenizer = tokenizer
        self._engine = engine
        self._metrics = metrics
        self.params = params
        self._priority = priority
        self._user = user
        self._searching: asyncio.Task[StepOutput] | None = None

    async def result(self) -> StepOutput:
        """The one output, with the beams. Whoever stops waiting for it ends the search for all who do.

        Raises RequestError if the engine refuses it, BusyError if it has no room for it by now, EngineDiedError if the
        engine is gone.
        """
        if self._searching is None:
            self._searching = asyncio.create_task(self._search())
        return await self._searching

    async def _search(self) -> StepOutput:
        request_id = next_request_id()
        clock = RequestClock(self._metrics, len(self.prompt_token_ids))
        finish_reason: str | None = None
        stream = self._engine.submit(request_id, self.prompt_token_ids, self.params, self._priority, self._user)
        try:
            output = await stream.next()
            clock.tokens_came()
            finish_reason = output.finish_reason
            assert finish_reason is not None
            assert output.beams is not None
            clock.finished(finish_reason, sum(len(beam.token_ids) for beam in output.beams), output.times)
            return output
        except RequestError:  # refused: no request that ended
            raise
        except BaseException:  # left by its client, or failed
            if finish_reason is None:
                clock.given_up()
            raise
        finally:
            self._engine.finish(request_id, aborted=True)


class BeamGeneration:
    """The answer of one place in the search's ranking."""

    def __init__(self, search: BeamSearch, place: int) -> None:
        self.prompt_token_ids = search.prompt_token_ids
        self._search = search
        self._place = place

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """All of it at once."""
        output = await self._search.result()
        assert output.beams is not None
        beam = output.beams[self._place]
        params = self._search.params
        detokenizer = self._search.tokenizer.stream(self.prompt_token_ids)
        stop_strings = StopStrings(params.stop)
        last = beam.token_ids[-1]
        # As a stop text, a stop token is not part of what is shown.
        shown = beam.token_ids[:-1] if last in params.stop_token_ids else beam.token_ids
        text, stop_reason = stop_strings.push("".join(map(detokenizer.push, shown)))
        if stop_reason is None:
            text += stop_strings.flush()
        yield Delta(
            text=text,
            token_ids=beam.token_ids,
            logprobs=None,
            num_output_tokens=len(beam.token_ids),
            num_cached_tokens=output.num_cached_tokens,
            finish_reason=beam.finish_reason,
            stop_reason=last if stop_reason is None and last in params.stop_token_ids else stop_reason,
        )
