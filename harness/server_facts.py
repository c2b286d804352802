"""What a server tells about itself before it is measured: its version, its model, its limits."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from llmbench.engines.wire import Endpoint
from llmbench.harness.probe import authorization, http_connection

# Where servers tell their version, each as JSON with a field of that name: vLLM, Ollama, TGI, SGLang, Triton.
_VERSION_PATHS = ("/version", "/api/version", "/info", "/get_server_info", "/v2")
# Whose other fields are limits and names that explain a measurement, and no secrets: TGI's.
_TOLD_WHOLE = frozenset({"/info"})


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """`version` is None where a server does not tell; `details` has what else it says of itself."""

    version: str | None = None
    details: Mapping[str, JsonValue] = field(default_factory=dict)


def ask_facts(endpoint: Endpoint) -> ServerFacts:
    """What the server says at one of the usual places; nothing where it does not answer there."""
    connection = http_connection(endpoint)
    try:
        for path in _VERSION_PATHS:
            connection.request("GET", path, headers=dict(authorization(endpoint)))
            answer = connection.getresponse()
            body = answer.read()
            told = _json_object(body) if answer.status == http.client.OK else {}
            if isinstance(version := told.get("version"), str):
                return ServerFacts(version, _scalars(told) if path in _TOLD_WHOLE else {})
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    return ServerFacts()


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _scalars(told: Mapping[str, Any]) -> dict[str, JsonValue]:
    return {
        name: value
        for name, value in told.items()
        if name != "version" and isinstance(value, str | int | float | bool) and str(value)
    }
