"""DeepSpeed-MII's real serving stack by gRPC, REST and OpenAI's routes, started by the adapter's own launch plan.

On a machine without an NVIDIA GPU the CUDA engine alone is replaced (tests/data/mii_on_cpu); with one nothing is.

llmbench engines install mii && pytest tests/engines_real/test_mii_real.py
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from llmbench.engines import recipe, registry
from llmbench.engines.environments import environment
from llmbench.engines.mii_launch import ENV, RECIPE
from llmbench.engines.wire import Endpoint, FailureKind, GenerationRequest, TokenSource
from llmbench.harness.models import ModelRef
from llmbench.harness.process import EngineProcess, free_port

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

ON_CPU = Path(__file__).parents[1] / "data" / "mii_on_cpu"
READY_S = 300.0


class Deployment(NamedTuple):
    replica: Endpoint
    balancer: Endpoint
    gateway: Endpoint
    openai: Endpoint


# What a request names: the deployment, or (None) the folder.
MODELS = {"mii-rest": "tiny", "mii-openai": None}


@pytest.fixture(scope="module")
def serve(start: Callable[..., EngineProcess]) -> Iterator[Callable[..., EngineProcess]]:
    """Starts a deployment as a run would; its replica listens at the port behind the load balancer's."""
    pytest.importorskip("grpc", reason="the extra llmbench[grpc] is not installed")
    with pytest.MonkeyPatch.context() as patch:
        env = {}
        if not recipe.has_nvidia_gpu():
            patch.setattr(recipe.Recipe, "lacks", lambda self: [])
            env = {"PYTHONPATH": str(ON_CPU)}

        def start_deployment(**arguments: object) -> EngineProcess:
            return start("mii", settings={"serve": arguments}, env=env)

        yield start_deployment


@pytest.fixture(scope="module")
def deployment(serve, model: ModelRef, tmp_path_factory: pytest.TempPathFactory, ask) -> Iterator[Deployment]:
    gateway, openai = (Endpoint("127.0.0.1", free_port()) for _ in range(2))
    rest = {"enable_restful_api": True, "restful_api_port": gateway.port, "restful_processes": 4}
    balancer = serve(deployment_name="tiny", **rest).plan.endpoint
    where = Deployment(replace(balancer, port=balancer.port + 1), balancer, gateway, openai)
    python = str(environment(RECIPE).path / "bin" / "python")
    argv = [python, "-m", "mii.entrypoints.openai_api_server", "--model", str(model.path), "--host", "127.0.0.1"]
    argv += ["--load-balancer", f"localhost:{balancer.port}", "--port", str(openai.port)]
    log_path = tmp_path_factory.mktemp("mii") / "openai.log"
    with log_path.open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log, env=os.environ | ENV) as server:
        try:
            for name, endpoint in {"mii-rest": gateway, "mii-openai": openai}.items():
                give_up = time.monotonic() + READY_S
                probe = question("x", max_tokens=1, stream=False, model=MODELS[name] or str(model.path))
                while ask(registry.get(name), endpoint, [probe])[0].failure is not None:
                    assert server.poll() is None, log_path.read_text()[-3000:]
                    assert time.monotonic() < give_up, log_path.read_text()[-3000:]
                    time.sleep(1)
            yield where
        finally:
            server.kill()


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


def test_a_replica_that_is_killed_ends_the_deployment_and_leaves_nothing(serve) -> None:
    process = serve()
    family = psutil.Process(process.pid).children(recursive=True)
    [replica, *_] = [each for each in family if "--server-port" in each.cmdline() and not each.children()]
    replica.kill()
    give_up = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < give_up
        time.sleep(0.1)
    assert "of the deployment ended with code" in process.log_path.read_text()
    assert not psutil.wait_procs(family, timeout=20)[1]
