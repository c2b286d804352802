"""One look at a server before it is measured: does it serve what will be asked of it?"""

from __future__ import annotations

import http.client
from typing import Any

from llmbench.engines.adapter import Adapter
from llmbench.engines.wire import Endpoint
from llmbench.harness.probe import authorization, http_connection


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
