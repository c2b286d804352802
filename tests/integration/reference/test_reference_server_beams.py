"""Beam search over HTTP: the answers of transformers' search, whole and streamed, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

PROMPT = [17, 42, 99, 300]
BEAMS = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "use_beam_search": True, "return_token_ids": True}


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(server) -> Iterator[None]:
    yield
    server.wait_for("vllm:num_requests_running", 0)
    server.wait_for("llmbench:kv_blocks_used", 0)


@pytest.fixture(scope="module")
def expected(tiny_model) -> list[list[int]]:
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    rows = oracle.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return rows[:, len(PROMPT) :].tolist()


def test_the_n_best_of_all_beams_are_those_of_transformers(server, expected: list[list[int]]) -> None:
    answer = server.ask("/v1/completions", {**BEAMS, "n": 2, "best_of": 4, "ignore_eos": True}).json()
    assert [choice["token_ids"] for choice in answer["choices"]] == expected[:2]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
    assert answer["usage"]["completion_tokens"] == 12
    streamed = server.ask("/v1/completions", {**BEAMS, "n": 2, "best_of": 4, "ignore_eos": True, "stream": True})
    events = [json.loads(line) for line in streamed.body.decode().split("data: ") if line.startswith("{")]
    texts = {event["choices"][0]["index"]: event["choices"][0]["text"] for event in events}
    assert texts == {choice["index"]: choice["text"] for choice in answer["choices"]}


def test_beams_end_at_stop_texts_and_stop_tokens(server, expected: list[list[int]]) -> None:
    """The text ends before the stop text, the tokens with the one that completes it."""
    whole = server.ask("/v1/completions", {**BEAMS, "n": 4, "ignore_eos": True}).json()["choices"]
    text = max((choice["text"] for choice in whole), key=len)
    stop = text[1:3]
    choices = server.ask("/v1/completions", {**BEAMS, "n": 4, "ignore_eos": True, "stop": stop}).json()["choices"]
    assert any(choice["finish_reason"] == "stop" for choice in choices)
    for choice in choices:
        assert stop not in choice["text"]
        assert choice["stop_reason"] == (stop if choice["finish_reason"] == "stop" else None)
    token = expected[0][2]
    asked = {**BEAMS, "n": 4, "ignore_eos": True, "stop_token_ids": [token]}
    choices = server.ask("/v1/completions", asked).json()["choices"]
    stopped = [choice for choice in choices if choice["finish_reason"] == "stop"]
    assert stopped
    assert all(choice["token_ids"][-1] == choice["stop_reason"] == token for choice in stopped)
    assert all(token not in choice["token_ids"] for choice in choices if choice not in stopped)


def test_others_get_tokens_while_beams_are_searched(server) -> None:
    connection = server.connect()
    asked = {"model": "tiny", "prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True, "temperature": 0}
    connection.request("POST", "/v1/completions", json.dumps(asked))
    response = connection.getresponse()
    response.readline()
    before = server.gauge("llmbench:steps_total")
    assert server.ask("/v1/completions", {**BEAMS, "n": 3, "max_tokens": 20, "ignore_eos": True}).status == 200
    # Twenty steps brought the beams, and in the same steps the other request went on.
    num_steps = server.gauge("llmbench:steps_total") - before
    assert 20 <= num_steps < 200
    assert server.gauge("vllm:num_requests_running") == 1
    assert response.read().count(b"data: {") >= 390
    connection.close()


def test_a_client_that_leaves_ends_its_search(server) -> None:
    before = server.gauge("llmbench:aborted_requests_total")
    connection = server.connect()
    connection.request("POST", "/v1/completions", json.dumps({**BEAMS, "n": 4, "max_tokens": 400, "ignore_eos": True}))
    server.wait_for("vllm:num_requests_running", 4)
    connection.close()
    server.wait_for("llmbench:aborted_requests_total", before + 1)


def test_more_beams_than_seats_are_refused(start_server, tiny_model) -> None:
    server = start_server(tiny_model, "--max-num-seqs", "2")
    reply = server.ask("/v1/completions", {**BEAMS, "n": 3})
    assert reply.status == 400
    assert "3 beams take a seat each" in reply.json()["error"]["message"]


def test_parameters_that_ask_for_nothing_are_no_hindrance(server, expected: list[list[int]]) -> None:
    neutral = {"top_k": -1, "temperature": 0, "logit_bias": {}, "response_format": {"type": "text"}}
    answer = server.ask("/v1/completions", {**BEAMS, **neutral, "best_of": 4, "ignore_eos": True}).json()
    assert answer["choices"][0]["token_ids"] == expected[0]


def test_a_search_that_the_engine_refuses_counts_as_none(start_server, tiny_model) -> None:
    server = start_server(tiny_model, "--max-num-seqs", "2")
    reply = server.ask("/v1/completions", {**BEAMS, "best_of": 4})
    assert (reply.status, "4 beams take a seat each" in reply.json()["error"]["message"]) == (400, True)
    assert "vllm:request_success_total{" not in server.ask("/metrics").body.decode()
    assert server.ask("/v1/completions", {**BEAMS, "best_of": 2}).status == 200
    server.stop()
