"""Requests that cannot be served: the right status, and a sentence that names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest

COMPLETION = {"model": "tiny", "prompt": "a", "max_tokens": 2}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}

# What is changed in a good body; the status; what the sentence says; the parameter it names.
IMAGE = {"type": "image_url", "image_url": {}}
COMPLETION_CASES = [
    ({"model": "other"}, 404, "'other' is not served here; 'tiny' is", "model"),
    ({"max_tokenz": 3}, 400, "'max_tokenz' is not supported", "max_tokenz"),
    ({"n": 0}, 400, "greater than or equal to 1", "n"),
    ({"n": 99}, 400, "less than or equal to 16", "n"),
    ({"presence_penalty": 2.5}, 400, "less than or equal to 2", "presence_penalty"),
    ({"min_p": -0.1}, 400, "greater than or equal to 0", "min_p"),
    ({"logit_bias": {"a": 1}}, 400, "should match pattern", "logit_bias.a.[key]"),
    ({"logit_bias": {"99999": 1}}, 400, "99999 is outside the vocabulary of 1024", None),
    ({"echo": True}, 400, "not supported", "echo"),
    ({"prompt": []}, 400, "none of them empty", "prompt"),
    ({"prompt": [[]]}, 400, "none of them empty", "prompt"),
    ({"prompt": [[5], []]}, 400, "none of them empty", "prompt"),
    ({"prompt": [1, 99999]}, 400, "99999 is outside the vocabulary of 1024", None),
    ({"prompt": [-1]}, 400, "a list of token ids", "prompt"),
    ({"prompt": [10] * 600}, 400, "context length is 512 tokens; 600 prompt tokens", None),
    ({"prompt": 7}, 400, "'prompt': must be a text, a list of token ids", "prompt"),
    ({"prompt": ["a", 7]}, 400, "'prompt': must be a text, a list of token ids", "prompt"),
    ({"max_tokens": 0}, 400, "greater than or equal to 1", "max_tokens"),
    ({"max_tokens": -4}, 400, "greater than or equal to 1", "max_tokens"),
    ({"max_tokens": "many"}, 400, "valid integer", "max_tokens"),
    ({"max_tokens": "2"}, 400, "valid integer", "max_tokens"),
    ({"max_tokens": 10**30}, 400, "max_tokens", None),
    ({"max_tokens": int("9" * 4300)}, 400, "less than or equal to 2147483647", "max_tokens"),
    ({"min_tokens": int("9" * 4300)}, 400, "less than or equal to 2147483647", "min_tokens"),
    ({"top_k": int("9" * 4300)}, 400, "less than or equal to 2147483647", "top_k"),
    ({"stop_token_ids": [int("9" * 4300)]}, 400, "less than or equal to 2147483647", "stop_token_ids.0"),
    ({"stop_token_ids": [1] * 16_385}, 400, "at most 16384 entries", "stop_token_ids"),
    ({"temperature": -1}, 400, "greater than or equal to 0", "temperature"),
    ({"temperature": "hot"}, 400, "valid number", "temperature"),
    ({"top_p": 0}, 400, "greater than 0", "top_p"),
    ({"top_p": 1.5}, 400, "less than or equal to 1", "top_p"),
    ({"top_k": -5}, 400, "greater than or equal to -1", "top_k"),
    ({"seed": 2**70}, 400, "seed", None),
    ({"user": "u" * 257}, 400, "at most 256 characters", "user"),
    ({"user": 7}, 400, "valid string", "user"),
    ({"min_tokens": 9}, 400, "min_tokens must lie in [0, max_tokens = 2]", None),
    ({"best_of": 2}, 400, "'best_of' has a meaning only with use_beam_search", "best_of"),
    ({"n": 3, "best_of": 2, "use_beam_search": True}, 400, "'best_of' must be at least n = 3", "best_of"),
    ({"length_penalty": 0.5}, 400, "'length_penalty' has a meaning only", "length_penalty"),
    ({"use_beam_search": True, "length_penalty": 400}, 400, "less than or equal to 10", "length_penalty"),
    ({"use_beam_search": True, "length_penalty": -1500}, 400, "greater than or equal to -10", "length_penalty"),
    ({"use_beam_search": True, "top_p": 0.5}, 400, "'top_p' has no meaning with use_beam_search", "top_p"),
    ({"use_beam_search": True, "min_tokens": 2}, 400, "'min_tokens' has no meaning with use_beam_search", "min_tokens"),
    ({"use_beam_search": True, "stop_token_ids": [99999]}, 400, "outside the vocabulary", None),
    ({"use_beam_search": True, "max_tokens": 511}, 400, "context length is 512", None),
    ({"logprobs": 99}, 400, "less than or equal to 20", "logprobs"),
    ({"stop": ""}, 400, "none of them empty", "stop"),
    ({"stop": ["a"] * 17}, 400, "a list of at most 16", "stop"),
    ({"stop_token_ids": [5000]}, 400, "5000 is outside the vocabulary", None),
    ({"stream_options": {"include_usages": True}}, 400, "not supported", "stream_options.include_usages"),
]
CHAT_CASES = [
    ({"messages": []}, 400, "at least 1 item", "messages"),
    ({"messages": [{"role": "user"}]}, 400, "'messages.0.content' is missing", "messages.0.content"),
    (
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        400,
        "parts of type text",
        None,
    ),
    ({"tools": []}, 400, "'tools' is not supported", "tools"),
    ({"messages": [{"role": "user", "content": None}]}, 400, "must be a text", "messages.0.content"),
    (
        {"messages": [{"role": "assistant", "content": "a", "audio": None, "tool_calls": [], "x": 1}]},
        400,
        "'messages.0.tool_calls' is not supported",
        "messages.0.tool_calls",
    ),
    ({"top_logprobs": 2}, 400, "top_logprobs needs logprobs", "top_logprobs"),
    ({"messages": [{"role": "user", "content": "a " * 900}]}, 400, "context length is 512", None),
]


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(server) -> Iterator[None]:
    yield
    server.wait_for("vllm:num_requests_running", 0)
    server.wait_for("llmbench:kv_blocks_used", 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "status", "says", "param"), COMPLETION_CASES, ids=lambda case: str(case)[:40])
def test_completion_refused(server, change, status, says, param, stream) -> None:
    check(server.ask("/v1/completions", {**COMPLETION, **change, "stream": stream}), status, says, param)


@pytest.mark.parametrize(("change", "status", "says", "param"), CHAT_CASES, ids=lambda case: str(case)[:40])
def test_chat_refused(server, change, status, says, param) -> None:
    check(server.ask("/v1/chat/completions", {**CHAT, **change}), status, says, param)


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)])
def test_options_of_a_stream_without_one_are_refused(server, path, body) -> None:
    reply = server.ask(path, {**body, "stream_options": {"include_usage": True}})
    check(reply, 400, "'stream_options' has a meaning only with stream: true", "stream_options")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"model": "tiny"}', "'prompt' is missing"),
        (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', "temperature"),
        (b'\xff\xfe{"model"', "not JSON"),
        (b'{"model": "tiny", "prompt": "\\ud800"}', ""),
    ],
)
def test_body_that_is_no_request(server, body, says) -> None:
    check(server.ask("/v1/completions", body), 400, says, None)


def test_body_beyond_the_limit_is_refused_before_it_is_read(server) -> None:
    connection = server.connect()
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("content-length", str(17 * 2**20))
    connection.endheaders(b"{")
    response = connection.getresponse()
    assert response.status == 413
    assert "larger than 16 MiB" in json.loads(response.read())["error"]["message"]
    connection.close()


def test_unknown_path_and_method(server) -> None:
    check(server.ask("/v1/embeddings", {}), 404, "/v1/embeddings", None)
    check(server.ask("/v1/completions"), 405, "GET /v1/completions", None)


def test_a_null_is_a_parameter_left_out_known_or_not(server) -> None:
    nulls = {"tools": None, "temperature": None, "stream_options": None, "whatever": None}
    assert server.ask("/v1/completions", {**COMPLETION, **nulls}).status == 200
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        asked = CHAT["messages"]
        answer = client.chat.completions.create(model="tiny", messages=asked, max_tokens=2).choices[0].message
        told = answer.model_dump()
        assert None in told.values()
        parts = {"role": "user", "content": [{"type": "text", "text": "b", "cache_control": None}]}
        client.chat.completions.create(model="tiny", messages=[*asked, told, parts], max_tokens=2, extra_body=nulls)


def test_parts_of_a_message_are_lines_as_in_vllm(server) -> None:
    def prompt(content: object) -> list[int]:
        body = {**CHAT, "messages": [{"role": "user", "content": content}], "return_token_ids": True}
        reply = server.ask("/v1/chat/completions", body)
        return reply.json()["choices"][0]["prompt_token_ids"]

    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert prompt(parts) == prompt("one\ntwo") != prompt("onetwo")


def test_openai_client_raises_its_own_errors(server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="is not served here"):
            client.completions.create(model="gpt-4", prompt="a")
        with pytest.raises(openai.BadRequestError, match="'best_of'"):
            client.completions.create(model="tiny", prompt="a", best_of=3)


def check(reply, status: int, says: str | None, param: str | None) -> None:
    assert reply.status == status, reply.body
    error = reply.json()["error"]
    assert error["code"] == status
    assert says in error["message"]
    if param is not None:
        assert error["param"] == param
