"""The server does what its OpenAPI document says, and withstands what schemathesis makes of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode

from llmbench.reference_engine.server.app import Service
from llmbench.reference_engine.server.openapi import document

# What a request may be refused for although its schema holds: what the document says in words.
NOT_IN_A_SCHEMA = re.compile(
    r"context length is|outside the vocabulary|min_tokens|An answer has one form|top_logprobs needs logprobs|"
    r"'(response_format|structured_outputs|guided_)|chat template|The prompt is empty|"
    r"'(best_of|length_penalty|stream_options)'|use_beam_search|beams "
)
GENERATING = ("/v1/completions", "/v1/chat/completions")


@pytest.fixture(scope="module")
def schema(server) -> schemathesis.BaseSchema:
    checks = {"positive_data_acceptance": {"expected-statuses": ["2xx", "400", "422"]}}
    config = schemathesis.Config.from_dict({"checks": checks, "output": {"sanitization": {"enabled": False}}})
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(server) -> Iterator[None]:
    yield
    server.wait_for("vllm:num_requests_running", 0)
    server.wait_for("llmbench:kv_blocks_used", 0)


def exchange(schema: schemathesis.BaseSchema, path: str, mode: GenerationMode) -> Counter[tuple[int, str]]:
    """Statuses and their sentences; raises where schemathesis finds an answer that the document does not allow."""
    seen: Counter[tuple[int, str]] = Counter()

    # The same requests every time: those that were found once are tests of their own.
    @settings(
        max_examples=30,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and case.body.get("max_tokens") is None:
            case.body["max_tokens"] = 3  # without a limit an answer fills the context
        response = case.call_and_validate(timeout=60)
        seen[response.status_code, "" if response.status_code == 200 else response.json()["error"]["message"]] += 1

    run()
    return seen


@pytest.mark.parametrize("path", GENERATING)
def test_requests_of_the_schema_are_answered_as_it_says(schema, path: str) -> None:
    seen = exchange(schema, path, GenerationMode.POSITIVE)
    assert seen[200, ""] >= 5
    assert [sentence for status, sentence in seen if status != 200 and not NOT_IN_A_SCHEMA.search(sentence)] == []


@pytest.mark.parametrize("path", GENERATING)
def test_requests_outside_the_schema_are_refused(schema, path: str) -> None:
    seen = exchange(schema, path, GenerationMode.NEGATIVE)
    assert {status for status, _ in seen} <= {400, 404}


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/{model}", "/health", "/metrics", "/openapi.json"])
def test_what_can_be_looked_at_is_as_described(schema, path: str) -> None:
    @settings(max_examples=5, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(case=schema[path]["GET"].as_strategy())
    def run(case: schemathesis.Case) -> None:
        case.call_and_validate(timeout=60)

    run()


def test_every_route_is_described_and_no_other() -> None:
    app = Service(Mock()).make_app()
    routes = {
        (route.path.replace(":path}", "}"), method)
        for route in app.routes
        for method in getattr(route, "methods", ()) or ()
    }
    described = {(path, method.upper()) for path, methods in document("tiny")["paths"].items() for method in methods}
    assert {(path, method) for path, method in routes if method != "HEAD"} == described


def part(of: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": of["components"]})


@pytest.mark.parametrize(
    ("path", "chunk", "body"),
    [
        ("/v1/completions", "CompletionChunk", {"prompt": "a", "logprobs": 2}),
        ("/v1/chat/completions", "ChatChunk", {"messages": [{"role": "user", "content": "a"}], "logprobs": True}),
    ],
)
def test_events_are_as_described(server, path: str, chunk: str, body: dict[str, Any]) -> None:
    described = server.ask("/openapi.json").json()
    asked = {"model": "tiny", "max_tokens": 4, "stream": True, "return_token_ids": True, "ignore_eos": True, **body}
    reply = server.ask(path, {**asked, "stream_options": {"include_usage": True}})
    events = [line.removeprefix("data: ") for line in reply.body.decode().split("\n\n") if line]
    assert events.pop() == "[DONE]"
    assert len(events) >= 5
    for event in events:
        part(described, chunk).validate(json.loads(event))
    assert not part(described, chunk).is_valid({**json.loads(events[0]), "object": "other"})


@pytest.mark.parametrize(
    "found",
    [
        {"repetition_penalty": 1e-87},
        {"repetition_penalty": 1e300},
        {"temperature": 1e300, "guided_choice": ["a", "b"]},
        {"min_tokens": 2, "stop_token_ids": list(range(1024))},
        {"top_p": 5e-324},
        {"prompt": [1.0, 2.0], "max_tokens": 2.0},
    ],
    ids=lambda found: next(iter(found)),
)
def test_what_was_found_once_is_answered(server, found: dict[str, Any]) -> None:
    assert server.ask("/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 2, **found}).status == 200
