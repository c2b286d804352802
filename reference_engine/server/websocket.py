"""An answer over WebSocket: one socket per request.

The client's first message is the JSON body that it would POST to the same path. Each event of the answer is a message,
JSON as in a server-sent event, and then `[DONE]`; without `stream` the whole answer is the one message. The server
closes the socket behind it, with 1000. An error is a message, the same JSON as the body of an HTTP error, and the close
code says whether to try again (1013), that the request was wrong (1008) or that the server broke (1011).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, aclosing
from http import HTTPStatus
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from llmbench.reference_engine.server.answers import Answer, events, until_disconnect, whole
from llmbench.reference_engine.server.errors import ApiError, as_api_error
from llmbench.reference_engine.server.logs import log_failure
from llmbench.reference_engine.server.request_ids import request_id

# RFC 6455 §7.4.1 and the registry that it founds.
_DONE, _WRONG, _BROKEN, _TRY_LATER = 1000, 1008, 1011, 1013
_LATER = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


async def converse(
    websocket: WebSocket,
    ask: Callable[[bytes, str], Coroutine[Any, Any, Answer]],
    answering: Callable[[], AbstractContextManager[None]],
) -> None:
    """Answer the one request of a socket, `answering` meanwhile, and close it; a client that leaves ends generation."""
    await websocket.accept(headers=[(b"x-request-id", request_id(websocket).encode("latin-1"))])
    try:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        content = message.get("bytes") or (message.get("text") or "").encode("utf-8", "surrogatepass")
        with answering():
            await until_disconnect(websocket.receive, request_id(websocket), _respond(websocket, ask, content))
    except WebSocketDisconnect:  # seen when a message cannot be sent
        return


async def _respond(
    websocket: WebSocket, ask: Callable[[bytes, str], Coroutine[Any, Any, Answer]], content: bytes
) -> None:
    try:
        answer = await ask(content, request_id(websocket))
        if answer.is_streamed:
            async with aclosing(events(answer)) as arriving:
                async for payloads in arriving:
                    for payload in payloads:
                        await websocket.send_text(payload.decode())
        else:
            await websocket.send_text((await whole(answer)).decode())
    except WebSocketDisconnect:
        raise
    except Exception as error:
        await _refuse(websocket, as_api_error(error), error)
    else:
        await websocket.close(_DONE)


async def _refuse(websocket: WebSocket, failure: ApiError, error: Exception) -> None:
    log_failure(request_id(websocket), websocket.url.path, failure, error)
    code = _TRY_LATER if failure.status in _LATER else _WRONG
    if failure.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        code = _BROKEN
    await websocket.send_text(failure.body().decode())
    await websocket.close(code)
