"""One look at a server before it is measured: does it serve what will be asked of it, and count as the plan does?"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

from llmbench.engines.adapter import Adapter
from llmbench.engines.openai import OpenAIAdapter
from llmbench.engines.wire import Endpoint
from llmbench.harness.plan import PlannedRequest
from llmbench.harness.probe import authorization, http_connection

# Of a trial's prompts so many are counted by the server too.
NUM_COUNTED = 3


def find_problem(adapter: Adapter, endpoint: Endpoint, model: str) -> str | None:
    """What the adapter finds wrong with the server, as a sentence; None if nothing, or if it has no way to tell.

    An adapter that can tell has `inspection_path(model)`, a path to GET or None, and `inspect(model, body)`.
    """
    inspector: Any = adapter
    path = inspector.inspection_path(model) if hasattr(inspector, "inspection_path") else None
    if path is None:
        return None
    connection = http_connection(endpoint)
    try:
        connection.request("GET", endpoint.base_path + path, headers=dict(authorization(endpoint)))
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return None  # the requests themselves will say what is wrong
    finally:
        connection.close()
    problem: str | None = inspector.inspect(model, body) if answer.status == http.client.OK else None
    return problem


def find_miscount(adapter: Adapter, endpoint: Endpoint, requests: Iterable[PlannedRequest]) -> str | None:
    """The first of a few prompts that the server finds to have another number of tokens than was planned, as a
    sentence; None where all agree, or where the server has no route that counts."""
    path = adapter.dialect.tokenize_path if isinstance(adapter, OpenAIAdapter) else None
    if path is None:
        return None
    known = (each for each in requests if each.prompt_tokens is not None and each.generation.prompt is not None)
    for request in islice(known, NUM_COUNTED):
        counted = _count(endpoint, path, request.generation.model, request.generation.prompt or "")
        if counted is not None and counted != request.prompt_tokens:
            return (
                f"{adapter.name} counts {counted} tokens in the prompt of {request.request_id}, planned with "
                f"{request.prompt_tokens}: its tokenizer is another one, or it adds tokens of its own."
            )
    return None


def _count(endpoint: Endpoint, path: str, model: str, prompt: str) -> int | None:
    connection = http_connection(endpoint)
    headers = {"Content-Type": "application/json", **authorization(endpoint)}
    try:
        connection.request("POST", path, json.dumps({"model": model, "prompt": prompt}), headers)
        answer = connection.getresponse()
        told = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException):
        return None  # the route is a courtesy: what matters comes with the answers
    finally:
        connection.close()
    counted = told.get("count") if isinstance(told, dict) else None
    return counted if isinstance(counted, int) else None
