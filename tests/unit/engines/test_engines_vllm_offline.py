"""`LLM.generate` as an engine: whole answers of batches, and no request that would need more."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llmbench.engines import registry
from llmbench.engines.adapter import EngineError
from llmbench.engines.wire import ChatMessage, Endpoint, FailureKind, TokenSource

HERE = Endpoint("127.0.0.1", 8000)
OFFLINE = registry.get("vllm-offline")


def sent(adapter, request) -> dict[str, object]:
    head, _, body = adapter.encode(request, HERE).payload.partition(b"\r\n\r\n")
    assert head.split()[1] == b"/generate"
    return json.loads(body)


def test_a_request_is_a_prompt_and_its_sampling(streamed) -> None:
    request = replace(streamed, temperature=0.5, top_k=3, seed=5, stop=("a",))
    asked = {"max_tokens": 6, "temperature": 0.5, "top_p": 1.0, "top_k": 3, "seed": 5, "stop": ["a"]}
    assert sent(OFFLINE, request) == {"prompt": "one two", "sampling": asked | {"ignore_eos": True}}


def test_settings_add_to_the_sampling_and_take_out(streamed) -> None:
    adapter = registry.get("vllm-offline", {"sampling": {"min_tokens": 6, "ignore_eos": None}})
    assert sent(adapter, streamed)["sampling"] == {"max_tokens": 6, "temperature": 0.0, "top_p": 1.0, "min_tokens": 6}


def test_an_answer_is_one_piece_though_a_stream_was_asked_for(timeline, streamed) -> None:
    body = {"text": "abc", "finish_reason": "length", "prompt_tokens": 2, "output_tokens": 6}
    answer = OFFLINE.decode(streamed, timeline(json.dumps(body).encode(), 200, "application/json"))
    assert (answer.text, answer.output_tokens, answer.prompt_tokens) == ("abc", 6, 2)
    assert (answer.token_source, answer.finish_reason) == (TokenSource.SERVER_COUNT, "length")
    assert answer.failure is None
    assert not OFFLINE.capabilities.streaming
    answer = OFFLINE.decode(
        streamed, timeline(json.dumps(body | {"token_ids": [7] * 6}).encode(), 200, "application/json")
    )
    assert (answer.output_tokens, answer.token_ids, answer.token_source) == (6, (7,) * 6, TokenSource.TOKEN_IDS)


def test_a_refusal_is_quoted(timeline, streamed) -> None:
    failure = OFFLINE.decode(
        streamed, timeline(b'{"error": "top_p must be in (0, 1]"}', 400, "application/json")
    ).failure
    assert failure is not None
    assert failure.kind is FailureKind.HTTP_STATUS
    assert "top_p must be in (0, 1]" in failure.message


def test_what_it_cannot_take(streamed) -> None:
    chat = replace(streamed, prompt=None, messages=(ChatMessage("user", "x"),))
    with pytest.raises(EngineError, match="takes prompts"):
        OFFLINE.encode(chat, HERE)
    with pytest.raises(EngineError, match="must be a number of ms"):
        registry.get("vllm-offline", {"gather_ms": -1})
    with pytest.raises(EngineError, match="no setting 'dtype'"):
        registry.get("vllm-offline", {"dtype": "float32"})
