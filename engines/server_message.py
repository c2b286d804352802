"""What a server said about its failure, fit to be quoted."""

from __future__ import annotations

import json
from typing import Any

from llmbench.engines.wire import Failure, FailureKind, Timeline

MAX_QUOTE = 300


def parse_json(data: bytes) -> Any:
    """The JSON value in `data`. Raises ValueError for everything else, nesting beyond the stack included."""
    try:
        # Decoded here: json.loads would first guess among five encodings, for every chunk of every answer.
        return json.loads(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def clean(text: str) -> str:
    """`text` on one line, without control characters or half characters, at most `MAX_QUOTE` characters long."""
    # Cut before looking at single characters: a server may send megabytes.
    kept = text[: 4 * MAX_QUOTE]
    line = " ".join("".join(char if char.isprintable() else " " for char in kept).split())
    return line if len(line) <= MAX_QUOTE else line[: MAX_QUOTE - 1] + "…"


def error_in(value: Any) -> str | None:
    """The message of a JSON error body or event, None if `value` is no error.

    Known shapes: {"error": {"message"}}, {"error": "…"}, {"object": "error", "message"}, {"detail": …}, {"errors": …}.
    """
    if not isinstance(value, dict):
        return None
    error = value.get("error") or value.get("errors")
    if error is None and (value.get("object") == "error" or value.get("type") == "error"):
        error = value.get("message") or "no message"
    if error is None and "choices" not in value:
        error = value.get("detail")
    if not error:
        return None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        error = error["message"]
    return clean(error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)) or "an empty message"


def quote_body(body: bytes) -> str:
    """The error message inside a body of JSON or SSE, else its first words as they are."""
    for candidate in (body, body.strip().removeprefix(b"data:")):
        try:
            value = parse_json(candidate)
        except ValueError:
            continue
        found = error_in(value)
        if found is None and isinstance(value, dict) and isinstance(value.get("message"), str):
            found = clean(value["message"])
        if found is not None:
            return found
    return clean(body[: 8 * MAX_QUOTE].decode(errors="replace"))


def status_failure(timeline: Timeline) -> Failure | None:
    """The failure that an HTTP status of 300 or more states, with the server's own words; None below that."""
    if timeline.status is None or timeline.status < 300:
        return None
    said = quote_body(b"".join(timeline.chunk_bytes))
    text = f"HTTP {timeline.status}" + (f": {said}" if said else " with an empty body")
    if timeline.status != 429:
        return Failure(FailureKind.HTTP_STATUS, text)
    retry_after = header(timeline, "retry-after")
    wait = "" if retry_after is None else f" (Retry-After: {clean(retry_after)})"
    return Failure(FailureKind.RATE_LIMITED, text + wait)


def header(timeline: Timeline, name: str) -> str | None:
    """The first value of the header `name` (lower case), None if the answer has none."""
    return next((value for key, value in timeline.headers if key.lower() == name), None)
