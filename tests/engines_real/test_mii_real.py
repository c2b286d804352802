"""DeepSpeed-MII's real serving stack by gRPC, with only the CUDA engine replaced (tests/data/mii_deployment.py).

It wants the interpreter of an environment with MII:

    python3.11 -m venv mii && mii/bin/pip install torch hjson msgpack py-cpuinfo tqdm pydantic einops \\
        "transformers<5" grpcio protobuf pyzmq ujson flask-restful requests psutil setuptools ninja
    DS_BUILD_OPS=0 mii/bin/pip install --no-deps --no-build-isolation deepspeed
    mii/bin/pip install --no-deps deepspeed-mii==0.3.3
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

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(300)]

PYTHON = "LLMBENCH_MII_PYTHON"
DEPLOYMENT = Path(__file__).parents[1] / "data" / "mii_deployment.py"
READY_S = 200.0


class Deployment(NamedTuple):
    replica: Endpoint
    balancer: Endpoint


@pytest.fixture(scope="module")
def deployment(model: ModelRef, tmp_path_factory: pytest.TempPathFactory, ask) -> Iterator[Deployment]:
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"{PYTHON} names no interpreter with deepspeed-mii; this file's first lines say how to make one")
    pytest.importorskip("grpc", reason="the extra llmbench[grpc] is not installed")
    log_path = tmp_path_factory.mktemp("mii") / "mii.log"
    where = Deployment(Endpoint("127.0.0.1", free_port()), Endpoint("127.0.0.1", free_port()))
    with log_path.open("wb") as log:
        argv = [python, str(DEPLOYMENT), str(model.path), str(where.replica.port), str(where.balancer.port)]
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        give_up = time.monotonic() + READY_S
        while ask(registry.get("mii"), where.balancer, [question("x", max_tokens=1)])[0].failure is not None:
            assert process.poll() is None, log_path.read_text()[-3000:]
            assert time.monotonic() < give_up, log_path.read_text()[-3000:]
            time.sleep(1)
        yield where
    finally:
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
