"""The routes: OpenAI's completions, chat completions and models, and what an operator asks for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.server.answers import Answer
from llmbench.reference_engine.server.errors import ApiError, BusyError, EngineDiedError, StoppingError, as_api_error
from llmbench.reference_engine.server.http_responses import StreamResponse, WholeResponse
from llmbench.reference_engine.server.intake import MAX_BODY_BYTES, Intake
from llmbench.reference_engine.server.logs import CLIENT_LEFT, log, log_failure
from llmbench.reference_engine.server.openapi import document
from llmbench.reference_engine.server.request_ids import request_id
from llmbench.reference_engine.server.websocket import converse

Ask = Callable[[bytes, str], Coroutine[Any, Any, Answer]]


class Service:
    """The routes over one intake. What generates is asked by POST and over WebSocket at the same path."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def make_app(self) -> Starlette:
        routes: list[Route | WebSocketRoute] = [
            Route("/v1/models", self.models),
            Route("/v1/models/{model:path}", self.one_model),
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
            Route("/openapi.json", self.describe),
        ]
        asked: dict[str, Ask] = {
            "/v1/completions": self._intake.completion,
            "/v1/chat/completions": self._intake.chat,
        }
        for path, ask in asked.items():
            routes += [Route(path, _by_post(ask), methods=["POST"]), WebSocketRoute(path, self._by_websocket(ask))]
        kinds = (ApiError, RequestError, BusyError, EngineDiedError, StoppingError)
        handlers: dict[Any, Any] = {
            HTTPException: _on_http_exception,
            ClientDisconnect: _on_leaving,
            **dict.fromkeys(kinds, _on_exception),
        }
        return Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(_Unexpected)])

    def _by_websocket(self, ask: Ask) -> Callable[[WebSocket], Coroutine[Any, Any, None]]:
        async def respond(websocket: WebSocket) -> None:
            await converse(websocket, ask, self._intake.answering)

        return respond

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def one_model(self, request: Request) -> Response:
        self._intake.check_name(request.path_params["model"])
        return JSONResponse(self._model())

    def _model(self) -> dict[str, object]:
        ready = self._intake.engine.ready
        return {
            "id": self._intake.model_name,
            "object": "model",
            "created": 0,
            "owned_by": "llmbench",
            "max_model_len": None if ready is None else ready.limits.max_model_len,
        }

    async def health(self, request: Request) -> Response:
        """200 while requests are served, 503 before and after."""
        is_serving = self._intake.engine.ready is not None and not self._intake.is_draining
        return Response(status_code=HTTPStatus.OK if is_serving else HTTPStatus.SERVICE_UNAVAILABLE)

    async def describe(self, request: Request) -> Response:
        return JSONResponse(document(self._intake.model_name))

    async def show_metrics(self, request: Request) -> Response:
        return Response(self._intake.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _by_post(ask: Ask) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def respond(request: Request) -> Response:
        answer = await ask(await read_body(request), request_id(request))
        return StreamResponse(answer) if answer.is_streamed else WholeResponse(answer)

    return respond


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


class _Unexpected:
    """Answers a request that failed by our own fault with 500. Starlette's own handler of these lets the error go on,
    and uvicorn logs it another time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def watch(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            if has_begun:
                raise
            response = await _on_exception(Request(scope), error)
            await response(scope, receive, send)


async def _on_exception(request: Request, error: Exception) -> Response:
    return _refused(request, as_api_error(error), error)


async def _on_leaving(request: Request, error: ClientDisconnect) -> Response:
    """The client left before all of its body was here; nobody reads the response."""
    log.info(CLIENT_LEFT, request_id=request_id(request))
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Unknown paths and methods, from the router."""
    failure = ApiError(HTTPStatus(error.status_code), f"{request.method} {request.url.path}: {error.detail}.")
    response = _refused(request, failure, error)
    response.headers.update(error.headers or {})
    return response


def _refused(request: Request, failure: ApiError, error: Exception) -> Response:
    log_failure(request_id(request), request.url.path, failure, error)
    headers = {**failure.headers, "x-request-id": request_id(request)}
    return Response(failure.body(), int(failure.status), headers, "application/json")
