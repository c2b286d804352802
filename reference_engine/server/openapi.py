"""The OpenAPI 3.1 document of a server, made of the models that read its requests: /openapi.json."""

from __future__ import annotations

from http import HTTPStatus
from importlib.metadata import version
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from llmbench.reference_engine.server.answer_schemas import (
    Chat,
    ChatChunk,
    Completion,
    CompletionChunk,
    ErrorBody,
    Model,
    Models,
)
from llmbench.reference_engine.server.request_ids import MAX_CHARS
from llmbench.reference_engine.server.schemas import ChatBody, CompletionBody

_REF = "#/components/schemas/{model}"

_DESCRIPTION = """\
OpenAI's completions and chat completions, from one model. A parameter that is not listed is refused by name.

Refused with 400 too, though no schema says so: a prompt that with `max_tokens` exceeds the context, token ids outside \
the vocabulary, more `min_tokens` than `max_tokens`, forms of an answer that no grammar can be made of, and more \
answers than the server ever has room for.

With `stream: true` an answer is server-sent events, each with one chunk as its data, and then `[DONE]`. The same two \
paths take a WebSocket: its first message is the body, every message of the answer one chunk.\
"""


class _Generation(NamedTuple):
    """A POST that generates: what it reads, what it answers, whole or in chunks."""

    summary: str
    body: type[BaseModel]
    answer: type[BaseModel]
    chunk: type[BaseModel]
    refusals: tuple[HTTPStatus, ...]


_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_GENERATIONS = {
    "/v1/completions": _Generation("Continue a text.", CompletionBody, Completion, CompletionChunk, _REFUSALS),
    "/v1/chat/completions": _Generation(
        "Answer a conversation.", ChatBody, Chat, ChatChunk, (*_REFUSALS, HTTPStatus.UNPROCESSABLE_ENTITY)
    ),
}
_WHY = {
    HTTPStatus.BAD_REQUEST: "The request is wrong; the sentence says where.",
    HTTPStatus.NOT_FOUND: "Another model is asked for than the one that is served.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "The model has no chat template, or its template refuses these messages.",
    HTTPStatus.TOO_MANY_REQUESTS: "As many requests are running and waiting as may; Retry-After says when to ask.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The engine broke.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The model is being loaded, or the server stops.",
}


def document(model_name: str) -> dict[str, Any]:
    """As JSON would have it, for a server of `model_name`."""
    _, definitions = models_json_schema(
        [
            *((each.body, "validation") for each in _GENERATIONS.values()),
            *((model, "validation") for each in _GENERATIONS.values() for model in (each.answer, each.chunk)),
            (ErrorBody, "validation"),
            (Models, "validation"),
        ],
        ref_template=_REF,
    )
    schemas: dict[str, Any] = definitions["$defs"]
    for each in _GENERATIONS.values():
        # Requests name the model that is served, or get a 404.
        schemas[each.body.__name__]["properties"]["model"] = {"const": model_name}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmbench reference engine",
            "version": version("llmbench"),
            "description": _DESCRIPTION,
        },
        "paths": {
            **{path: {"post": _generation(each)} for path, each in _GENERATIONS.items()},
            "/v1/models": {"get": _look("The model that is served.", _json(Models))},
            "/v1/models/{model}": {"get": _one_model(model_name)},
            "/metrics": {"get": _look("Prometheus' metrics.", {"text/plain": {"schema": {"type": "string"}}})},
            "/openapi.json": {"get": _look("This document.", {"application/json": {"schema": {"type": "object"}}})},
            "/health": {
                "get": {
                    "summary": "Whether requests are served.",
                    "responses": {"200": {"description": "They are."}, "503": {"description": "Not yet, or no more."}},
                }
            },
        },
        "components": {"schemas": schemas},
    }


def _generation(each: _Generation) -> dict[str, Any]:
    # Of one event, as readers of OpenAPI before 3.2 take the schema of a stream.
    data = [_json_text(each.chunk), _json_text(ErrorBody), {"const": "[DONE]"}]
    event = {"type": "object", "properties": {"data": {"type": "string", "anyOf": data}}, "required": ["data"]}
    answer = {
        "description": "The answer.",
        "headers": {"x-request-id": {"schema": {"type": "string"}, "required": True}},
        "content": {**_json(each.answer), "text/event-stream": {"schema": event}},
    }
    return {
        "summary": each.summary,
        "parameters": [
            {
                "name": "x-request-id",
                "in": "header",
                "schema": {"type": "string"},
                "description": f"The request's name in the answer and in the log, of at most {MAX_CHARS} characters.",
            }
        ],
        "requestBody": {"required": True, "content": _json(each.body)},
        "responses": {"200": answer, **{str(int(status)): _refusal(status) for status in each.refusals}},
    }


def _refusal(status: HTTPStatus) -> dict[str, Any]:
    return {"description": _WHY[status], "content": _json(ErrorBody)}


def _look(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": "It.", "content": content}}}


def _one_model(name: str) -> dict[str, Any]:
    described = _look("The model, if it is the one that is served.", _json(Model))
    described["responses"]["404"] = _refusal(HTTPStatus.NOT_FOUND)
    parameter = {"name": "model", "in": "path", "required": True, "schema": {"const": name}}
    return {**described, "parameters": [parameter]}


def _json_text(model: type[BaseModel]) -> dict[str, Any]:
    return {"contentMediaType": "application/json", "contentSchema": {"$ref": _REF.format(model=model.__name__)}}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}
