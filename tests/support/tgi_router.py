"""What Text Generation Inference's router says over HTTP, as an ASGI application: no model, the words of the prompt.

    python -m uvicorn tgi_router:app

Read in the router's sources (3.3.6) and its OpenAPI document, and not run against the real one. The first word of a
prompt may ask for a failure: `overload`, `fail` (after two tokens), `cut` (the connection just ends).
"""

from __future__ import annotations

import json
from typing import Any

INFO = {
    "model_id": "toy/words",
    "model_sha": None,
    "max_concurrent_requests": 128,
    "max_best_of": 2,
    "max_stop_sequences": 4,
    "max_input_tokens": 1024,
    "max_total_tokens": 2048,
    "validation_workers": 2,
    "max_client_batch_size": 4,
    "router": "text-generation-router",
    "version": "3.3.6-dev0",
}
OVERLOADED = {"error": "Model is overloaded", "error_type": "overloaded"}
FAILED = {"error": "Request failed during generation: out of words", "error_type": "generation"}
KEEP_ALIVE = b":\n\n"


def token(number: int, text: str, *, special: bool = False) -> dict[str, Any]:
    return {"id": number, "text": text, "logprob": -0.5, "special": special}


def words_of(body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The tokens of the answer and why it ends: the prompt's words over and over, or just once and the end token."""
    asked = body["parameters"]["max_new_tokens"]
    words = body["inputs"].split()
    if words[0] == "short":
        return [*(token(i, f" {word}") for i, word in enumerate(words)), token(99, "</s>", special=True)], "eos_token"
    return [token(i, f" {words[i % len(words)]}") for i in range(asked)], "length"


def stream_events(body: dict[str, Any]) -> list[bytes]:
    """The events of a stream, whatever becomes of it: HTTP's status is 200 all the same."""
    first = body["inputs"].split()[0]
    if first == "overload":
        return [_event(OVERLOADED)]
    tokens, reason = words_of(body)
    events: list[bytes] = [KEEP_ALIVE]
    for number, each in enumerate(tokens, start=1):
        last = number == len(tokens)
        details = {"finish_reason": reason, "generated_tokens": number, "seed": None, "input_length": 5}
        text = "".join(each["text"] for each in tokens if not each["special"])
        events.append(
            _event(
                {
                    "index": number,
                    "token": each,
                    "generated_text": text if last else None,
                    "details": details if last and body["parameters"].get("details") else None,
                }
            )
        )
        if number == 2 and first == "fail":
            return [*events, _event(FAILED)]
        if number == 2 and first == "cut":
            return events
    return events


def whole_answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer in one piece."""
    first = body["inputs"].split()[0]
    if first == "overload":
        return 429, OVERLOADED
    if first == "fail":
        return 424, FAILED
    tokens, reason = words_of(body)
    text = "".join(each["text"] for each in tokens if not each["special"])
    details = {"finish_reason": reason, "generated_tokens": len(tokens), "seed": None, "prefill": [], "tokens": tokens}
    return 200, {"generated_text": text, "details": details if body["parameters"].get("details") else None}


def _event(body: dict[str, Any]) -> bytes:
    # No space after the colon: axum 0.6 writes none.
    return b"data:" + json.dumps(body).encode() + b"\n\n"


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return

    async def reply(status: int, content: bytes, content_type: bytes = b"application/json") -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]})
        await send({"type": "http.response.body", "body": content})

    path = scope["path"]
    if scope["method"] == "GET":
        known = {"/info": json.dumps(INFO).encode(), "/health": b""}
        await reply(200 if path in known else 404, known.get(path, b""))
        return
    content, more = b"", True
    while more:
        message = await receive()
        content, more = content + message.get("body", b""), message.get("more_body", False)
    body = json.loads(content)
    if path == "/generate_stream" or (path == "/" and body.get("stream")):
        headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in stream_events(body):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body"})
        return
    status, answer = whole_answer(body)
    # The compatibility route wraps an answer in a list.
    await reply(status, json.dumps([answer] if path == "/" and status == 200 else answer).encode())
