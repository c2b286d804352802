"""The routes: OpenAI's completions, chat completions and models, and what an operator asks for."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.server.answers import Answer, StreamResponse, WholeResponse
from llmbench.reference_engine.server.engine_client import EngineClient
from llmbench.reference_engine.server.errors import ApiError, EngineDiedError, StoppingError, as_api_error
from llmbench.reference_engine.server.formats import AnswerFormat, ChatFormat, CompletionFormat
from llmbench.reference_engine.server.generation import Generation
from llmbench.reference_engine.server.metrics import ServerMetrics
from llmbench.reference_engine.server.schemas import ChatBody, CompletionBody, GenerationBody
from llmbench.reference_engine.tokenizer import Tokenizer

logger = logging.getLogger("llmbench.reference_engine")

MAX_BODY_BYTES = 16 * 2**20
# Below this a text is tokenised in well under a millisecond, less than a thread's way there and back.
_INLINE_CHARS = 4096
_DEFAULT_MAX_TOKENS = 16  # OpenAI's, of completions

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes work with. `engine.ready` is None while the model is being loaded.

    A request that would make more than `max_requests` running and waiting ones is refused with 429.
    """

    engine: EngineClient
    tokenizer: Tokenizer
    metrics: ServerMetrics
    model_name: str
    max_requests: int

    def make_app(self) -> Starlette:
        routes = [
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
        ]
        kinds = (ApiError, RequestError, EngineDiedError, StoppingError, Exception)
        handlers: dict[Any, Any] = {HTTPException: _on_http_exception, **dict.fromkeys(kinds, _on_exception)}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def completions(self, request: Request) -> Response:
        body = parse(CompletionBody, await read_body(request))
        self._check_model(body.model)
        prompts = [
            prompt if isinstance(prompt, list) else await self._encode(prompt, body.add_special_tokens)
            for prompt in body.prompts()
        ]
        max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        params = body.sampling_params(max_tokens, body.logprobs)
        answer_format = CompletionFormat(
            _request_id(request), self.model_name, self.tokenizer, body.return_token_ids, len(prompts) * body.n
        )
        return self._respond(request, body, prompts, params, answer_format)

    async def chat_completions(self, request: Request) -> Response:
        body = parse(ChatBody, await read_body(request))
        self._check_model(body.model)
        messages = [message.for_template() for message in body.messages]
        try:
            prompt = await asyncio.to_thread(self.tokenizer.encode_chat, messages)
        except RequestError as error:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), "messages") from None
        max_tokens = body.token_limit
        if max_tokens is None:
            assert self.engine.ready is not None
            # At least one, so that the prompt is what is said to be too long.
            max_tokens = max(1, self.engine.ready.limits.max_model_len - len(prompt))
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(HTTPStatus.BAD_REQUEST, "top_logprobs needs logprobs: true.", "top_logprobs")
        params = body.sampling_params(max_tokens, (body.top_logprobs or 0) if body.logprobs else None)
        answer_format = ChatFormat(_request_id(request), self.model_name, self.tokenizer, body.return_token_ids)
        return self._respond(request, body, [prompt], params, answer_format)

    def _respond(
        self,
        request: Request,
        body: GenerationBody,
        prompts: Sequence[list[int]],
        params: Sequence[SamplingParams],
        answer_format: AnswerFormat,
    ) -> Response:
        """`params` are one per answer to each prompt; choices are numbered prompt by prompt."""
        if self.engine.num_requests + len(prompts) * len(params) > self.max_requests:
            message = f"{self.max_requests} requests are running or waiting, which is the limit; try again later."
            raise ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after_s=1)
        # All of them before any: a stream that has begun can no longer be refused.
        assert self.engine.ready is not None
        for prompt in prompts:
            for each in params:
                self.engine.ready.limits.check(prompt, each.max_tokens, each.named_token_ids)
        answer = Answer(
            generations=[
                Generation(self.engine, self.tokenizer, self.metrics, prompt, each, body.stops, body.priority)
                for prompt in prompts
                for each in params
            ],
            num_prompt_tokens=sum(map(len, prompts)),
            format=answer_format,
            request_id=_request_id(request),
            include_usage=body.include_usage,
            continuous_usage=body.continuous_usage,
            with_token_ids=body.return_token_ids,
        )
        return StreamResponse(answer) if body.stream else WholeResponse(answer)

    async def models(self, request: Request) -> Response:
        ready = self.engine.ready
        model = {
            "id": self.model_name,
            "object": "model",
            "created": 0,
            "owned_by": "llmbench",
            "max_model_len": None if ready is None else ready.limits.max_model_len,
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def health(self, request: Request) -> Response:
        """200 once requests are served, 503 before."""
        return Response(status_code=503 if self.engine.ready is None else 200)

    async def show_metrics(self, request: Request) -> Response:
        return Response(self.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _check_model(self, name: str) -> None:
        if name != self.model_name:
            message = f"The model {name!r} is not served here; {self.model_name!r} is."
            raise ApiError(HTTPStatus.NOT_FOUND, message, "model")
        if self.engine.ready is None:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "The model is being loaded.", retry_after_s=1)

    async def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if len(text) <= _INLINE_CHARS:
            return self.tokenizer.encode(text, add_special_tokens)
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens)


async def read_body(request: Request) -> bytes:
    """Raises ApiError 413 as soon as it is clear that the body is too large."""
    too_large = ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {MAX_BODY_BYTES // 2**20} MiB; send less."
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise too_large
    return bytes(body)


def parse(schema: type[Body], body: bytes) -> Body:
    """The body as its schema says. Raises ApiError 400 that names the field."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise _as_api_error(error) from None


def _as_api_error(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False)[0]
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


def _request_id(request: Request) -> str:
    """The client's x-request-id, or one made here; the same at every call for one request."""
    if not hasattr(request.state, "request_id"):
        request.state.request_id = request.headers.get("x-request-id") or uuid.uuid4().hex
    made: str = request.state.request_id
    return made


async def _on_exception(request: Request, error: Exception) -> Response:
    failure = as_api_error(error)
    if failure.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("request %s failed: %s", _request_id(request), failure.message)
    return _error_response(request, failure)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Unknown paths and methods, from the router."""
    failure = ApiError(HTTPStatus(error.status_code), f"{request.method} {request.url.path}: {error.detail}.")
    response = _error_response(request, failure)
    response.headers.update(error.headers or {})
    return response


def _error_response(request: Request, failure: ApiError) -> Response:
    headers = {**failure.headers, "x-request-id": _request_id(request)}
    return Response(failure.body(), int(failure.status), headers, "application/json")
