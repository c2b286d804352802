"""The real tritonserver, by HTTP and gRPC: the bundled engine in its Python backend, and stand-ins for other backends.

llmbench engines install triton && pytest tests/engines_real/test_triton_real.py
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llmbench.engines import registry
from llmbench.engines.adapter import Adapter
from llmbench.engines.environments import environment
from llmbench.engines.triton_launch import RECIPE
from llmbench.engines.triton_launcher import EXIT_TIMEOUT_S
from llmbench.engines.wire import DecodedAnswer, Endpoint, FailureKind, GenerationRequest, TokenSource
from llmbench.harness.errors import EngineStartError
from llmbench.harness.log_facts import read_log_facts
from llmbench.harness.process import EngineProcess
from llmbench.harness.prometheus import scrape

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(300)]

PROMPTS = ["one two three", "naïve – ünïcode 漢字", "a" * 200, "The quick brown fox"]
PROTOCOLS = ["http", "grpc"]


@pytest.fixture(scope="module")
def server(start: Callable[..., EngineProcess], standins: Path) -> EngineProcess:
    """One server with every model, that listens for both protocols."""
    pytest.importorskip("grpc", reason="the extra llmbench[grpc] is not installed")
    settings = {"protocol": "grpc", "kernels": "torch", "max_num_seqs": 8}
    return start("triton", settings=settings, args=(f"--model-repository={standins}",), startup_timeout_s=240.0)


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def endpoint(server: EngineProcess, protocol: str) -> Endpoint:
    port = server.plan.ready_port if protocol == "http" else server.plan.endpoint.port
    return Endpoint("127.0.0.1", port)


def adapter(protocol: str, schema: str = "vllm") -> Adapter:
    return registry.get("triton", {"protocol": protocol, "schema": schema})


def question(model: str, prompt: str, number: int = 0, **fields: object) -> GenerationRequest:
    return replace(GenerationRequest(f"r{number}", model, 16, prompt=prompt), **fields)


@pytest.fixture(scope="module")
def expected(greedy: Callable[[list[str], int], list[str]]) -> list[str]:
    return greedy(PROMPTS, 16)


def test_answers_are_the_engines_own(ask, endpoint, protocol, model, expected) -> None:
    # The name holds a colon, which Triton does not know percent-encoded, and the prompts what a C locale does not read.
    answers = ask(adapter(protocol), endpoint, [question(model.name, text, i) for i, text in enumerate(PROMPTS)])
    assert [answer.failure for answer in answers] == [None] * len(PROMPTS)
    assert [answer.text for answer in answers] == expected
    for answer in answers:
        assert (answer.output_tokens, answer.token_source) == (16, TokenSource.USAGE_DELTA)
        assert answer.finish_reason == "length"
        assert answer.prompt_tokens > 0


def test_answers_come_with_the_ids_of_their_tokens(ask, endpoint, protocol, model, expected) -> None:
    from llmbench.reference_engine.tokenizer import Tokenizer

    stream = Tokenizer(model.path).stream()
    [answer] = ask(adapter(protocol), endpoint, [question(model.name, PROMPTS[0])])
    assert answer.token_ids is not None
    assert len(answer.token_ids) == 16
    assert "".join(map(stream.push, answer.token_ids)) == expected[0]


def test_the_engine_tells_of_itself_at_triton_s_metrics(ask, server, model) -> None:
    def seen() -> dict[str, float]:
        endpoint = Endpoint("127.0.0.1", server.plan.metrics_port)
        return {value.metric: value.value for value in scrape(endpoint, adapter("http").capabilities.metrics)}

    def idle() -> dict[str, float]:
        """What is seen once the engine has nothing to do: it tells so within half a second."""
        give_up = time.monotonic() + 20
        while (told := seen())["kv_cache_usage"] or told["requests_running"]:
            assert time.monotonic() < give_up, told
            time.sleep(0.2)
        return told

    before = idle()
    requests = [question(model.name, f"metrics {number}", number) for number in range(12)]
    answers = ask(adapter("http"), Endpoint("127.0.0.1", server.plan.ready_port), requests)
    assert [answer.failure for answer in answers] == [None] * 12
    give_up = time.monotonic() + 20
    while (after := idle())["ttft_count"] - before["ttft_count"] < 12:
        assert time.monotonic() < give_up, after
        time.sleep(0.2)
    assert after["generated_tokens"] - before["generated_tokens"] == 12 * 16
    prompt_tokens = sum(answer.prompt_tokens for answer in answers)
    assert after["prompt_tokens"] - before["prompt_tokens"] == prompt_tokens
    assert after["ttft_sum"] > before["ttft_sum"]
    assert {"requests_running", "requests_waiting", "prefix_cache_queries", "preemptions"} <= set(after)


def test_an_answer_in_one_piece(ask, endpoint, protocol, model, expected) -> None:
    [answer] = ask(adapter(protocol), endpoint, [question(model.name, PROMPTS[0], stream=False)])
    assert (answer.text, answer.output_tokens, answer.failure) == (expected[0], 16, None)


def test_a_stop_text_ends_the_answer(ask, endpoint, protocol, model, expected) -> None:
    stop = expected[0][6:9]
    [answer] = ask(adapter(protocol), endpoint, [question(model.name, PROMPTS[0], stop=(stop,))])
    assert answer.text == expected[0][: expected[0].index(stop)]
    assert answer.finish_reason == "stop"


def test_many_requests_are_served_at_once(ask, endpoint, protocol, model) -> None:
    answers = ask(adapter(protocol), endpoint, [question(model.name, "x", number) for number in range(24)])
    assert {answer.text for answer in answers} == {answers[0].text}
    assert [answer.failure for answer in answers] == [None] * 24


@pytest.mark.parametrize("schema", ["trtllm", "llmapi"])
def test_the_shapes_of_other_backends(ask, endpoint, protocol, schema) -> None:
    [answer] = ask(adapter(protocol, schema), endpoint, [question(schema, "x", max_tokens=5, seed=2**63)])
    assert answer.failure is None
    assert (answer.text, answer.output_tokens) == ("tok0 tok1 tok2 tok3 tok4 ", 5)
    [whole] = ask(adapter(protocol, schema), endpoint, [question(schema, "x", max_tokens=5, stream=False)])
    assert (whole.text, whole.failure) == (answer.text, None)


def failure_of(answers: list[DecodedAnswer]) -> tuple[FailureKind, str]:
    [answer] = answers
    assert answer.failure is not None
    return answer.failure.kind, answer.failure.message


def test_a_model_that_says_nothing_is_a_failure(ask, endpoint, protocol) -> None:
    kind, message = failure_of(ask(adapter(protocol), endpoint, [question("faults", "SILENT")]))
    if protocol == "http":
        assert (kind, "HTTP 200 and ended the stream without one event" in message) == (FailureKind.TRUNCATED, True)
    else:
        assert kind is FailureKind.TRUNCATED or "without any answer" in message


def test_an_error_in_the_first_response(ask, endpoint, protocol) -> None:
    kind, message = failure_of(ask(adapter(protocol), endpoint, [question("faults", "FAIL")]))
    assert kind is (FailureKind.HTTP_STATUS if protocol == "http" else FailureKind.SERVER_ERROR)
    assert "asked to fail" in message


def test_an_error_after_tokens_keeps_the_tokens(ask, endpoint, protocol) -> None:
    answers = ask(adapter(protocol), endpoint, [question("faults", "FAILMID")])
    kind, message = failure_of(answers)
    assert kind is FailureKind.SERVER_ERROR
    assert "asked to fail midway" in message
    assert answers[0].text == "tok0 tok1 "


def test_refusals_are_told_in_the_servers_words(ask, endpoint, protocol, model) -> None:
    _, message = failure_of(ask(adapter(protocol), endpoint, [question("nope", "x")]))
    assert "unknown model: 'nope'" in message
    _, message = failure_of(ask(adapter(protocol), endpoint, [question(model.name, "x", max_tokens=100_000)]))
    assert "The context length is" in message
    wrong_name = registry.get("triton", {"protocol": protocol, "extra_body": {"txt": "x"}})
    answers = ask(wrong_name, endpoint, [question(model.name, "x")])
    if protocol == "grpc":
        assert "expected number of inputs between 1 and 7 but got 8" in failure_of(answers)[1]
    else:  # what is no input is a parameter of the request there, and nobody minds
        assert answers[0].failure is None


def test_what_the_engine_computes_with_is_in_the_log(server) -> None:
    facts = read_log_facts(server.log_path, server.plan.log_facts)
    assert (facts["dtype"], facts["device"]) == ("float32", "cpu")


def test_the_server_is_the_one_of_the_recipe_and_its_numpy_is_old_enough(server) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.plan.ready_port}/v2") as answer:
        assert json.load(answer)["version"] == RECIPE.version
    [numpy] = [line for line in environment(RECIPE).lock() if line.startswith("numpy==")]
    assert numpy.startswith("numpy==1.")


def test_why_the_engine_did_not_start_is_in_the_end_of_the_log(start) -> None:
    with pytest.raises(EngineStartError, match="ended with code 1 before it was ready") as told:
        start("triton", settings={"kernels": "torch", "max_num_seqs": 600}, startup_timeout_s=240.0)
    assert "max_num_batched_tokens (512) must be at least max_num_seqs (600)" in str(told.value)


def test_a_second_server_beside_the_first_is_killed_and_leaves_nothing(ask, start, server, model, expected) -> None:
    second = start("triton", settings={"kernels": "torch"}, startup_timeout_s=240.0)
    for port in (second.plan.ready_port, server.plan.ready_port):  # their shared memory does not meet
        [answer] = ask(adapter("http"), Endpoint("127.0.0.1", port), [question(model.name, PROMPTS[0])])
        assert (answer.text, answer.failure) == (expected[0], None)
    family = [psutil.Process(second.pid), *psutil.Process(second.pid).children(recursive=True)]
    assert len(family) > 1
    family[0].kill()
    give_up = time.monotonic() + 30
    while second.poll() is None:
        assert time.monotonic() < give_up
        time.sleep(0.1)
    assert second.ending() == "was ended by signal 9"
    assert not psutil.wait_procs(family, timeout=20)[1]


def test_a_stub_that_dies_is_a_failed_request_and_does_not_hold_up_the_end(ask, server, model) -> None:
    """Last: it takes the server's engine away."""
    for child in psutil.Process(server.pid).children(recursive=True):
        if "stub" in child.name():
            child.kill()
    endpoint = Endpoint("127.0.0.1", server.plan.ready_port)
    [answer] = ask(adapter("http"), endpoint, [question(model.name, "x")])
    assert answer.failure is not None
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < EXIT_TIMEOUT_S + 20
    assert not psutil.pid_exists(server.pid)
