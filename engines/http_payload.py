"""A whole HTTP/1.1 request as bytes, built before the clock starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmbench.engines.adapter import EngineError
from llmbench.engines.wire import Endpoint, WireRequest


def post_json(
    endpoint: Endpoint,
    path: str,
    body: Mapping[str, Any],
    request_id: str,
    *,
    accept: str,
    headers: Mapping[str, str] | None = None,
) -> WireRequest:
    """`body` as JSON, POSTed to `path` below the endpoint's base path, with `x-request-id` and the api key if any.

    Over WebSocket `body` is the one message to that path, and `headers` and the id are left out.
    Raises EngineError for a header or a body that cannot be sent as it is.
    """
    try:
        # allow_nan: NaN and Infinity are no JSON, and every server refuses them with a message about something else.
        encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise EngineError(f"Request {request_id} cannot be written as JSON: {error}.") from None
    target = f"{endpoint.base_path.rstrip('/')}{path}"
    if not target.isascii() or not target.isprintable() or " " in target:
        raise EngineError(f"The path {target!r} holds characters that a URL does not; percent-encode them.")
    if endpoint.websocket:
        return WireRequest("websocket", endpoint, encoded, target)
    fields = {
        "host": _host(endpoint),
        "content-type": "application/json",
        "content-length": str(len(encoded)),
        "accept": accept,
        # A compressed stream would be stamped when its compressor flushed, not when a token was made.
        "accept-encoding": "identity",
        "user-agent": "llmbench",
        "x-request-id": request_id,
        **(headers or {}),
    }
    if endpoint.api_key is not None:
        fields["authorization"] = f"Bearer {endpoint.api_key}"
    head = [f"POST {target} HTTP/1.1", *(_header(name, value) for name, value in fields.items())]
    return WireRequest("http", endpoint, "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + encoded)


def _host(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return host if endpoint.port == (443 if endpoint.tls else 80) else f"{host}:{endpoint.port}"


def _header(name: str, value: str) -> str:
    # The value is left out of the message: it may be the api key.
    if not value.isascii() or not value.isprintable():
        raise EngineError(f"The value of the HTTP header {name} holds a line break or a character beyond ASCII.")
    return f"{name}: {value}"
