"""vLLM's own extras on the real server: dummy weights, and what it adds to the protocol.

llmbench engines install vllm && pytest tests/engines_real/test_vllm_extras_real.py
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from llmbench.engines import registry
from llmbench.engines.wire import GenerationRequest, TokenSource
from llmbench.harness.plan import PlannedRequest
from llmbench.harness.preflight import find_miscount
from llmbench.harness.process import EngineProcess
from llmbench.harness.server_facts import ask_facts

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(900)]

SETTINGS = {"enforce_eager": True, "dtype": "float32", "max_model_len": 512, "load_format": "dummy"}
PROMPTS = ["one two three", "naïve – ünïcode 漢字", "The quick brown fox"]


@pytest.fixture(scope="module")
def server(start: Callable[..., EngineProcess]) -> EngineProcess:
    return start("vllm", settings=SETTINGS, startup_timeout_s=500.0)


def test_weights_of_its_own_making_answer_and_every_token_is_counted(server, ask, model) -> None:
    requests = [GenerationRequest(f"r{i}", model.name, 16, prompt=text) for i, text in enumerate(PROMPTS)]
    counted = ask(registry.get("vllm"), server.plan.endpoint, requests)
    by_ids = registry.get("vllm", {"extra_body": {"return_token_ids": True}})
    listed = ask(by_ids, server.plan.endpoint, requests)
    assert [answer.failure for answer in (*counted, *listed)] == [None] * 2 * len(PROMPTS)
    assert [answer.output_tokens for answer in (*counted, *listed)] == [16] * 2 * len(PROMPTS)
    assert {answer.token_source for answer in counted} == {TokenSource.USAGE_DELTA}
    assert {answer.token_source for answer in listed} == {TokenSource.TOKEN_IDS}


def test_the_server_tells_its_version_and_counts_prompts_as_planned(server, model) -> None:
    endpoint = server.plan.endpoint
    assert ask_facts(endpoint).version == "0.32.0"
    request = GenerationRequest("r", model.name, 4, prompt="one two three")
    planned = PlannedRequest("r", 0, None, request, warmup=False, prompt_tokens=7)
    assert find_miscount(registry.get("vllm"), endpoint, [planned]) is None
    problem = find_miscount(registry.get("vllm"), endpoint, [replace(planned, prompt_tokens=5)])
    assert problem is not None
    assert "vllm counts 7 tokens in the prompt of r, planned with 5" in problem


def test_min_tokens_and_the_request_id_reach_it(server, ask, model) -> None:
    adapter = registry.get("vllm", {"extra_body": {"min_tokens": 12}})
    request = GenerationRequest("an-id-of-ours", model.name, 12, prompt="one", ignore_eos=False, stream=False)
    wire = adapter.encode(request, server.plan.endpoint)
    assert b"x-request-id: an-id-of-ours" in wire.payload
    assert b'"min_tokens":12' in wire.payload
    [answer] = ask(adapter, server.plan.endpoint, [request])
    assert (answer.output_tokens, answer.failure) == (12, None)
    # The very bytes again: the server names its answer after the request's id.
    with socket.create_connection((server.plan.endpoint.host, server.plan.endpoint.port), 60) as connection:
        connection.sendall(wire.payload)
        reply = b""
        while b'"usage"' not in reply and (received := connection.recv(65536)):
            reply += received
    assert b'"id":"cmpl-an-id-of-ours' in reply
