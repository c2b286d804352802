"""Presets send what their server takes, and read what it adds."""

import json

import pytest

from llmbench.engines import registry
from llmbench.engines.wire import Endpoint, FailureKind, GenerationRequest, TokenSource

HERE = Endpoint("127.0.0.1", 8000)


def sent(name: str, **fields: object) -> dict[str, object]:
    request = GenerationRequest("r", "m", 4, prompt="x", **fields)
    return json.loads(registry.get(name).encode(request, HERE).payload.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("name", ["sglang", "trtllm", "vllm"])
def test_engines_that_count_as_they_go_are_asked_to(name: str) -> None:
    assert sent(name)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert registry.get(name).capabilities.exact_token_counts


@pytest.mark.parametrize(("name", "expected"), [("sglang", True), ("llamacpp", True), ("ollama", None)])
def test_only_engines_that_can_are_asked_to_ignore_the_end(name: str, expected: bool | None) -> None:
    assert sent(name).get("ignore_eos") is expected
    assert registry.get(name).capabilities.ignore_eos is (expected is True)


def test_a_requests_own_value_comes_before_the_presets_default() -> None:
    assert sent("llamacpp")["top_k"] == 0
    assert sent("llamacpp", top_k=5)["top_k"] == 5


def test_no_preset_is_sent_fields_of_another() -> None:
    strict = {"model", "prompt", "max_tokens", "temperature", "top_p", "stream", "stream_options", "ignore_eos"}
    assert set(sent("trtllm")) == strict


def test_settings_keep_the_preset() -> None:
    adapter = registry.get("sglang", {"extra_body": {"min_p": 0.1}})
    assert (adapter.name, adapter.capabilities.exact_token_counts) == ("sglang", True)


def test_lmdeploys_token_ids_are_counted_in_completions_and_chat(timeline, streamed) -> None:
    for choice in ({"text": "ab", "gen_tokens": [5, 6]}, {"delta": {"content": "ab", "gen_tokens": [5, 6]}}):
        body = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\ndata: [DONE]\n\n"
        answer = registry.get("lmdeploy").decode(streamed, timeline(body))
        assert (answer.output_tokens, answer.token_source) == (2, TokenSource.TOKEN_IDS)


def test_where_temperature_zero_is_refused_greedy_is_the_best_one_alone() -> None:
    greedy = sent("mii-openai")
    assert (greedy["temperature"], greedy["top_k"]) == (1.0, 1)
    assert "stream_options" not in greedy
    sampled = sent("mii-openai", temperature=0.5, top_k=7)
    assert (sampled["temperature"], sampled["top_k"]) == (0.5, 7)
    assert sent("sglang")["temperature"] == 0.0


# What `transformers serve` sent to a Llama with random weights: no [DONE], and the usage beside the finish reason.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stream", [(1, "iollthep"), (1, "iowaip"), (1, "ethootr"), (1, "ethootr"), (0, "")]),
        ("chat", [(0, ""), (1, "scoand"), (1, "scoand"), (1, "scoand"), (1, " meend"), (0, "")]),
    ],
)
def test_transformers_streams_give_their_exact_events(capture, streamed, name, expected) -> None:
    answer = registry.get("transformers").decode(streamed, capture(f"transformers/{name}"))
    assert [(event.tokens, event.text) for event in answer.events] == expected
    assert (answer.token_source, answer.finish_reason) == (TokenSource.SERVER_COUNT, "length")
    assert answer.failure is None


def test_transformers_answers_in_one_piece_and_refuses_what_it_does_not_know(capture, whole) -> None:
    transformers = registry.get("transformers")
    answer = transformers.decode(whole, capture("transformers/whole"))
    assert (answer.text, answer.output_tokens, answer.prompt_tokens) == ("iollthepiowaipethootrethootr", 4, 7)
    assert (answer.finish_reason, answer.failure) == ("length", None)
    refusal = transformers.decode(whole, capture("transformers/refused")).failure
    assert refusal is not None
    assert "Unexpected fields in the request" in refusal.message
    assert set(sent("transformers")) == {"model", "prompt", "max_tokens", "temperature", "top_p", "stream"}


def test_transformers_streams_that_are_cut_lack_their_finish_reason(capture, streamed) -> None:
    captured = capture("transformers/stream")
    captured.chunk_bytes.pop()
    captured.chunk_ns.pop()
    failure = registry.get("transformers").decode(streamed, captured).failure
    assert failure is not None
    assert failure.kind is FailureKind.TRUNCATED


# What llama.cpp's server sent: the usage comes beside the finish reason, and in a chat after it.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stream", [(1, text) for text in ("file", ",", " file", "=", "file", "):")] + [(0, ""), (0, "")]),
        ("chat", [(0, ""), (1, "\n"), (1, "def"), (1, " _"), (0, ""), (0, ""), (0, "")]),
    ],
)
def test_llamacpp_streams_give_their_exact_events(capture, streamed, name, expected) -> None:
    answer = registry.get("llamacpp").decode(streamed, capture(f"llamacpp/{name}"))
    assert [(event.tokens, event.text) for event in answer.events] == expected
    assert (answer.token_source, answer.finish_reason) == (TokenSource.SERVER_COUNT, "length")
    assert answer.failure is None


def test_llamacpp_answers_in_one_piece_and_says_what_it_refuses(capture, whole) -> None:
    llamacpp = registry.get("llamacpp")
    answer = llamacpp.decode(whole, capture("llamacpp/whole"))
    assert (answer.text, answer.output_tokens, answer.prompt_tokens) == ("file, file=file):", 6, 10)
    refusal = llamacpp.decode(whole, capture("llamacpp/refused")).failure
    assert refusal is not None
    assert "HTTP 400: Field 'max_tokens': Value must be between -1" in refusal.message


def test_llamacpp_is_asked_on_a_connection_of_its_own_each_time() -> None:
    """It hangs up after a stream without saying so: what is sent on that connection meanwhile is lost."""
    request = GenerationRequest("r", "m", 4, prompt="x")
    assert b"\r\nconnection: close\r\n" in registry.get("llamacpp").encode(request, HERE).payload
    assert b"connection" not in registry.get("openai").encode(request, HERE).payload.partition(b"\r\n\r\n")[0]


# What MLX's server sent: comments while it reads the prompt, and the usage after the finish reason.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stream", [(1, text) for text in ("ke", "ep", "_", "e", "mpty", "(")] + [(0, "")] * 3),
        ("chat", [(1, "*" * 8)] * 6 + [(0, "")] * 3),
    ],
)
def test_mlx_streams_give_their_exact_events(capture, streamed, name, expected) -> None:
    answer = registry.get("mlx").decode(streamed, capture(f"mlx/{name}"))
    events = [(event.tokens, event.text) for event in answer.events]
    # The comments come before the first token, and are none.
    assert events[:2] == [(0, ""), (0, "")]
    assert events[2:] == expected
    assert (answer.token_source, answer.finish_reason) == (TokenSource.SERVER_COUNT, "length")
    assert answer.failure is None


def test_mlx_answers_in_one_piece_and_says_what_it_refuses(capture, whole) -> None:
    mlx = registry.get("mlx")
    answer = mlx.decode(whole, capture("mlx/whole"))
    assert (answer.text, answer.output_tokens, answer.prompt_tokens) == ("keep_empty(", 6, 3)
    refusal = mlx.decode(whole, capture("mlx/refused")).failure
    assert refusal is not None
    assert refusal.message == "HTTP 400: max_tokens must be at least 1"


def test_mlx_is_not_asked_for_what_it_drops_without_a_word() -> None:
    assert "ignore_eos" not in sent("mlx")
