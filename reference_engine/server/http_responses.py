"""An answer over HTTP: in one body, or as server-sent events. A client that leaves ends its generations."""

from __future__ import annotations

from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmbench.reference_engine.server.answers import Answer, events, until_disconnect, whole
from llmbench.reference_engine.server.errors import as_api_error
from llmbench.reference_engine.server.logs import log_failure


class WholeResponse(Response):
    """All text at once, when the last token is there."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._answer.request_id, self._respond(send))

    async def _respond(self, send: Send) -> None:
        body = await whole(self._answer)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            _request_id(self._answer),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class StreamResponse(Response):
    """Server-sent events. Headers go out with the first token, so that a refused request still gets its status."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._answer.request_id, self._respond(scope, send))

    async def _respond(self, scope: Scope, send: Send) -> None:
        is_open = False
        try:
            async with aclosing(events(self._answer)) as arriving:
                async for payloads in arriving:
                    if not is_open:
                        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), _request_id(self._answer)]
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                        is_open = True
                    body = b"".join(b"data: %b\n\n" % payload for payload in payloads)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        except Exception as error:
            if not is_open:
                raise
            # Too late for a status: an event that carries the error, and no [DONE] after it.
            failure = as_api_error(error)
            log_failure(self._answer.request_id, scope["path"], failure, error)
            await send({"type": "http.response.body", "body": b"data: " + failure.body() + b"\n\n"})
            return
        await send({"type": "http.response.body", "body": b""})


def _request_id(answer: Answer) -> tuple[bytes, bytes]:
    return b"x-request-id", answer.request_id.encode("latin-1")
