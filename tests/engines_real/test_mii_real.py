"""DeepSpeed-MII's real serving stack by gRPC, REST and OpenAI's routes; only the CUDA engine is replaced.

What replaces it is in tests/data/mii_deployment.py, run by the interpreter of an environment with MII:

    python3.11 -m venv mii && mii/bin/pip install torch hjson msgpack py-cpuinfo tqdm pydantic einops \\
        "transformers<5" grpcio protobuf pyzmq ujson flask-restful requests psutil setuptools ninja \\
        shortuuid fastapi uvicorn pydantic-settings
    DS_BUILD_OPS=0 mii/bin/pip install --no-deps --no-build-isolation deepspeed
    mii/bin/pip install --no-deps deepspeed-mii==0.3.3 fschat==0.2.36
    LLMBENCH_MII_PYTHON=mii/bin/python pytest tests/engines_real/test_mii_real.py
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from llmbench.engines import registry
from llmbench.engines.wire import Endpoint, FailureKind, GenerationRequest, TokenSource
from llmbench.harness.models import ModelRef
from llmbench.harness.process import free_port

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

PYTHON = "LLMBENCH_MII_PYTHON"
DEPLOYMENT = Path(__file__).parents[1] / "data" / "mii_deployment.py"
READY_S = 200.0


class Deployment(NamedTuple):
    replica: Endpoint
    balancer: Endpoint
    gateway: Endpoint
    openai: Endpoint


# What a request names: nothing, the deployment, or (None) the folder.
MODELS = {"mii": "m", "mii-rest": "tiny", "mii-openai": None}


@pytest.fixture(scope="module")
def deployment(model: ModelRef, tmp_path_factory: pytest.TempPathFactory, ask) -> Iterator[Deployment]:
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"{PYTHON} names no interpreter with deepspeed-mii; this file's first lines say how to make one")
    pytest.importorskip("grpc", reason="the extra llmbench[grpc] is not installed")
    where = Deployment(*(Endpoint("127.0.0.1", free_port()) for _ in Deployment._fields))
    balancer = str(where.balancer.port)
    # Each by what runs it, and by the adapter that asks it.
    servers = {
        "mii": (where.balancer, [str(DEPLOYMENT), "serve", str(model.path), str(where.replica.port), balancer]),
        "mii-rest": (where.gateway, [str(DEPLOYMENT), "gateway", str(model.path), balancer, str(where.gateway.port)]),
        "mii-openai": (where.openai, ["-m", "mii.entrypoints.openai_api_server", "--model", str(model.path)]),
    }
    servers["mii-openai"][1].extend(["--load-balancer", f"localhost:{balancer}", "--host", "127.0.0.1"])
    servers["mii-openai"][1].extend(["--port", str(where.openai.port)])
    folder, processes = tmp_path_factory.mktemp("mii"), []
    try:
        for name, (endpoint, argv) in servers.items():
            log_path = folder / f"{name}.log"
            with log_path.open("wb") as log:
                process = subprocess.Popen(
                    [python, *argv], stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"}
                )
            processes.append(process)
            give_up = time.monotonic() + READY_S
            probe = question("x", max_tokens=1, stream=False, model=MODELS[name] or str(model.path))
            while ask(registry.get(name), endpoint, [probe])[0].failure is not None:
                assert process.poll() is None, log_path.read_text()[-3000:]
                assert time.monotonic() < give_up, log_path.read_text()[-3000:]
                time.sleep(1)
        yield where
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(params=["replica", "balancer"])
def endpoint(request: pytest.FixtureRequest, deployment: Deployment) -> Endpoint:
    found: Endpoint = getattr(deployment, request.param)
    return found


def question(prompt: str, number: int = 0, **fields: object) -> GenerationRequest:
    return replace(GenerationRequest(f"r{number}", "m", 16, prompt=prompt), **fields)


PROMPTS = ["one two three", "naïve – ünïcode", "a" * 100, "The quick brown fox"]


def test_streams_are_the_same_greedy_answers(ask, endpoint, greedy) -> None:
    answers = ask(registry.get("mii"), endpoint, [question(text, i) for i, text in enumerate(PROMPTS)])
    assert [answer.failure for answer in answers] == [None] * len(PROMPTS)
    assert [answer.text for answer in answers] == greedy(PROMPTS, 16)
    for answer in answers:
        # A message per token, and the empty one at the end.
        assert [event.tokens for event in answer.events] == [1] * 16 + [0]
        assert (answer.token_source, answer.finish_reason) == (TokenSource.USAGE_DELTA, "length")
        assert answer.prompt_tokens > 0


def test_an_answer_in_one_piece(ask, endpoint, greedy) -> None:
    [answer] = ask(registry.get("mii"), endpoint, [question(PROMPTS[0], stream=False)])
    assert [answer.text] == greedy(PROMPTS[:1], 16)
    assert (answer.output_tokens, answer.failure) == (16, None)


def test_a_replica_tells_its_error_and_the_load_balancer_swallows_it(ask, deployment) -> None:
    bogus = registry.get("mii", {"extra_body": {"bogus": 1}})
    [told] = ask(bogus, deployment.replica, [question("x")])
    assert told.failure.kind is FailureKind.SERVER_ERROR
    assert "Extra inputs are not permitted" in told.failure.message
    [swallowed] = ask(bogus, deployment.balancer, [question("x")], first_token_s=2.0)
    assert swallowed.failure.kind is FailureKind.FIRST_TOKEN_TIMEOUT


def test_what_was_given_up_does_not_poison_what_follows(ask, endpoint, greedy) -> None:
    [given_up] = ask(registry.get("mii"), endpoint, [question(PROMPTS[0], max_tokens=100)], total_s=0.1)
    assert given_up.failure.kind is FailureKind.TOTAL_TIMEOUT
    answers = ask(registry.get("mii"), endpoint, [question(PROMPTS[0], i) for i in range(8)])
    assert [(answer.text, answer.failure) for answer in answers] == [(greedy(PROMPTS[:1], 16)[0], None)] * 8


def test_the_restful_gateway_answers_in_one_piece(ask, deployment, greedy) -> None:
    [answer] = ask(registry.get("mii-rest"), deployment.gateway, [question(PROMPTS[0], stream=False, model="tiny")])
    assert [answer.text] == greedy(PROMPTS[:1], 16)
    assert (answer.output_tokens, answer.token_source) == (16, TokenSource.SERVER_COUNT)
    assert answer.failure is None


def test_the_openai_server_streams_the_same_greedy_answers(ask, deployment, model, greedy) -> None:
    requests = [question(text, i, model=str(model.path)) for i, text in enumerate(PROMPTS)]
    answers = ask(registry.get("mii-openai"), deployment.openai, requests)
    assert [answer.failure for answer in answers] == [None] * len(PROMPTS)
    assert [answer.text for answer in answers] == greedy(PROMPTS, 16)
    # It says nothing of tokens, and has no way to go on after the end token.
    assert {answer.token_source for answer in answers} == {TokenSource.ASSUMED_ONE}
