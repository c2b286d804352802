"""What a request is called in its answer and in the log."""

from __future__ import annotations

import uuid

from starlette.requests import HTTPConnection


def request_id(connection: HTTPConnection) -> str:
    """The client's x-request-id, or one made here; the same at every call for one request."""
    if not hasattr(connection.state, "request_id"):
        connection.state.request_id = connection.headers.get("x-request-id") or uuid.uuid4().hex
    made: str = connection.state.request_id
    return made
