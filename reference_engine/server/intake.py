"""From the body of a request to the answer that it is to get, or to the reason why it gets none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from llmbench.reference_engine.beam_search import BeamParams
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.limits import Limits
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.server.answers import Answer
from llmbench.reference_engine.server.beam_generation import BeamGeneration, BeamSearch
from llmbench.reference_engine.server.engine_client import EngineClient
from llmbench.reference_engine.server.errors import ApiError, StoppingError
from llmbench.reference_engine.server.formats import AnswerFormat, ChatFormat, CompletionFormat
from llmbench.reference_engine.server.generation import Generating, Generation
from llmbench.reference_engine.server.metrics import ServerMetrics
from llmbench.reference_engine.server.schemas import ChatBody, CompletionBody, GenerationBody
from llmbench.reference_engine.tokenizer import SHORT_CHARS, Tokenizer

MAX_BODY_BYTES = 16 * 2**20
_DEFAULT_MAX_TOKENS = 16  # OpenAI's, of completions

Body = TypeVar("Body", bound=BaseModel)


@dataclass(slots=True)
class Intake:
    """What every route asks. `engine.ready` is None while the model is being loaded.

    A request for which the engine has no room is refused with 429; with `is_draining` every request is refused with
    503. Raises ApiError, BusyError or RequestError for a request that is not to be answered.
    """

    engine: EngineClient
    tokenizer: Tokenizer
    metrics: ServerMetrics
    model_name: str
    is_draining: bool = False
    # Answers under way by WebSocket and gRPC; those by HTTP are uvicorn's to wait for.
    num_answering: int = 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While an answer is computed and sent: a server that drains waits for it."""
        self.num_answering += 1
        try:
            yield
        finally:
            self.num_answering -= 1

    async def completion(self, content: bytes, request_id: str) -> Answer:
        """Of the JSON of a CompletionBody."""
        body = parse(CompletionBody, content)
        self._check_model(body.model)
        body.check_stream_options()
        body.check_best_of()
        asked = body.prompts()
        # Before time is spent on them.
        self.engine.check_room(len(asked) * body.num_seats)
        prompts = await self._encode(asked, body.add_special_tokens)
        max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        params = await _params(body, max_tokens, body.logprobs)
        answer_format = CompletionFormat(
            request_id, self.model_name, self.tokenizer, body.return_token_ids, len(prompts) * body.n
        )
        return self._answer(request_id, body, prompts, params, answer_format)

    async def chat(self, content: bytes, request_id: str) -> Answer:
        """Of the JSON of a ChatBody."""
        body = parse(ChatBody, content)
        self._check_model(body.model)
        body.check_stream_options()
        body.check_best_of()
        self.engine.check_room(body.num_seats)
        prompt = await asyncio.to_thread(self._encode_chat, body)
        max_tokens = body.token_limit
        if max_tokens is None:
            # At least one, so that the prompt is what is said to be too long.
            max_tokens = max(1, self._limits.max_model_len - len(prompt))
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(HTTPStatus.BAD_REQUEST, "top_logprobs needs logprobs: true.", "top_logprobs")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        params = await _params(body, max_tokens, logprobs)
        answer_format = ChatFormat(request_id, self.model_name, self.tokenizer, body.return_token_ids)
        return self._answer(request_id, body, [prompt], params, answer_format)

    def _answer(
        self,
        request_id: str,
        body: GenerationBody,
        prompts: Sequence[list[int]],
        params: Sequence[SamplingParams] | BeamParams,
        answer_format: AnswerFormat,
    ) -> Answer:
        """`params` are one per answer to each prompt, or of the search that finds them; choices are numbered prompt by
        prompt."""
        # Others may have come while the prompts were read.
        self.engine.check_room(len(prompts) * body.num_seats)
        # All of them before any: a stream that has begun can no longer be refused. The answers differ in their seeds.
        first = params if isinstance(params, BeamParams) else params[0]
        self._limits.check_token_ids(first.named_token_ids)
        for prompt in prompts:
            self._limits.check(prompt, first.max_tokens)
        return Answer(
            generations=[generation for prompt in prompts for generation in self._generations(prompt, params, body)],
            prompt_lengths=[len(prompt) for prompt in prompts],
            format=answer_format,
            request_id=request_id,
            is_streamed=body.stream,
            include_usage=body.include_usage,
            continuous_usage=body.continuous_usage,
            with_token_ids=body.return_token_ids,
        )

    def _generations(
        self, prompt: list[int], params: Sequence[SamplingParams] | BeamParams, body: GenerationBody
    ) -> list[Generating]:
        if isinstance(params, BeamParams):
            search = BeamSearch(self.engine, self.tokenizer, self.metrics, prompt, params, body.priority, body.user)
            return [BeamGeneration(search, place) for place in range(body.n)]
        return [
            Generation(self.engine, self.tokenizer, self.metrics, prompt, each, body.stops, body.priority, body.user)
            for each in params
        ]

    def _check_model(self, name: str) -> None:
        if self.is_draining:
            raise StoppingError
        self.check_name(name)
        if self.engine.ready is None:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "The model is being loaded.", retry_after_s=1)

    def check_name(self, name: str) -> None:
        """Raises ApiError 404 for another model than the one that is served."""
        if name != self.model_name:
            message = f"The model {name!r} is not served here; {self.model_name!r} is."
            raise ApiError(HTTPStatus.NOT_FOUND, message, "model")

    @property
    def _limits(self) -> Limits:
        """Of a model that is loaded, as _check_model has found it to be."""
        assert self.engine.ready is not None
        return self.engine.ready.limits

    async def _encode(self, prompts: Sequence[str | list[int]], add_special_tokens: bool) -> list[list[int]]:
        """Each as token ids, those that are texts in a thread if there is much of them."""
        num_chars = sum(len(prompt) for prompt in prompts if isinstance(prompt, str))
        if num_chars <= SHORT_CHARS:
            return self._encode_all(prompts, add_special_tokens)
        return await asyncio.to_thread(self._encode_all, prompts, add_special_tokens)

    def _encode_all(self, prompts: Sequence[str | list[int]], add_special_tokens: bool) -> list[list[int]]:
        return [
            self._encode_text(prompt, add_special_tokens) if isinstance(prompt, str) else prompt for prompt in prompts
        ]

    def _encode_chat(self, body: ChatBody) -> list[int]:
        """Of a chat's messages. Raises ApiError 422 for those that the model's template refuses."""
        messages = [message.for_template() for message in body.messages]
        try:
            text = self.tokenizer.chat_text(messages, body.chat_template_kwargs)
        except RequestError as error:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), "messages") from None
        # The template writes the special tokens itself.
        return self._encode_text(text, add_special_tokens=False)

    def _encode_text(self, text: str, add_special_tokens: bool) -> list[int]:
        # No token stands for less than one character.
        if len(text) > self._limits.max_model_len:
            self._limits.check_text(len(text), self.tokenizer.max_token_chars)
        return self.tokenizer.encode(text, add_special_tokens)


async def _params(body: GenerationBody, max_tokens: int, logprobs: int | None) -> list[SamplingParams] | BeamParams:
    if body.use_beam_search:
        return body.beam_params(max_tokens)
    # A large schema takes a while to be checked; most requests have none.
    grammar = await asyncio.to_thread(body.grammar) if body.has_form else None
    return body.sampling_params(max_tokens, logprobs, grammar)


def parse(schema: type[Body], body: bytes) -> Body:
    """The body as its schema says. Raises ApiError 400 that names the field."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise _as_api_error(error) from None


def _as_api_error(error: ValidationError) -> ApiError:
    # Without what it costs to tell of each: there may be many.
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    kind, text = first["type"], first["msg"].removeprefix("Value error, ")
    param = ".".join(str(part) for part in first["loc"])
    match kind:
        case "json_invalid":
            return ApiError(HTTPStatus.BAD_REQUEST, f"The body is not JSON: {text}.")
        case "extra_forbidden":
            return ApiError(HTTPStatus.BAD_REQUEST, f"The parameter {param!r} is not supported.", param)
        case "missing":
            return ApiError(HTTPStatus.BAD_REQUEST, f"The parameter {param!r} is missing.", param)
        case _ if not param:
            return ApiError(HTTPStatus.BAD_REQUEST, f"The body must be a JSON object: {text}.")
        case _:
            return ApiError(HTTPStatus.BAD_REQUEST, f"The parameter {param!r}: {text}.", param)
