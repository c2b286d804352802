"""What a request is called in its answer and in the log."""

from __future__ import annotations

import uuid

from starlette.requests import HTTPConnection

MAX_CHARS = 256


def known_as(told: str | None) -> str:
    """The name that a client gives its request, or one made here: where it gives none, or one of over MAX_CHARS, which
    cut short might be another's."""
    return told if told and len(told) <= MAX_CHARS else uuid.uuid4().hex


def request_id(connection: HTTPConnection) -> str:
    """The client's x-request-id, or one made here; the same at every call for one request."""
    if not hasattr(connection.state, "request_id"):
        connection.state.request_id = known_as(connection.headers.get("x-request-id"))
    made: str = connection.state.request_id
    return made
