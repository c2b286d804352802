"""The simulated engine over loopback: an OpenAI server to its client, a truth to its log."""

import dataclasses
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from itertools import pairwise

import openai
import pytest

from llmbench.engines import registry
from llmbench.engines.adapter import EngineOptions
from llmbench.engines.openai import OpenAIAdapter
from llmbench.engines.wire import ChatMessage, FailureKind, GenerationRequest, TokenSource

CHAT = (ChatMessage("user", "one two three"),)


@pytest.fixture
def client(simulated):
    with openai.OpenAI(base_url=f"{simulated.endpoint.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def request(request_id: str, **fields: object) -> GenerationRequest:
    return GenerationRequest(**{"request_id": request_id, "model": "m", "max_tokens": 8, "prompt": "one two"} | fields)


def asked(request_id: str, stream: bool = True, **simulate: object) -> tuple[OpenAIAdapter, GenerationRequest]:
    return OpenAIAdapter(settings={"extra_body": {"simulate": simulate}}), request(request_id, stream=stream)


def test_the_openai_client_streams_a_chat(client) -> None:
    chunks = list(
        client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "one two three"}],
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == " tick" * 5
    assert chunks[-2].choices[0].finish_reason == "length"
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 5)


def test_the_openai_client_gets_a_chat_in_one_piece(client) -> None:
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=5)
    assert (answer.choices[0].message.content, answer.usage.total_tokens) == (" tick" * 5, 6)


def test_the_openai_client_completes_both_ways(client) -> None:
    chunks = list(client.completions.create(model="m", prompt="one two", max_tokens=5, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == " tick" * 5
    whole = client.completions.create(model="m", prompt=[1, 2, 3, 4], max_tokens=5)
    assert (whole.choices[0].text, whole.usage.prompt_tokens) == (" tick" * 5, 4)


def test_the_openai_client_sees_refusals_and_models(client) -> None:
    assert [model.id for model in client.models.list()] == ["simulated"]
    with pytest.raises(openai.RateLimitError):
        client.completions.create(model="m", prompt="x", extra_headers={"x-simulate": '{"status": 429}'})
    with pytest.raises(openai.BadRequestError, match="did you mean ttft_ms"):
        client.completions.create(model="m", prompt="x", extra_body={"simulate": {"ttf_ms": 3}})


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "one piece"])
@pytest.mark.parametrize("messages", [None, CHAT], ids=["completions", "chat"])
def test_the_adapter_and_the_log_agree(simulated, send, stream, messages) -> None:
    asking = request(f"agree-{stream}-{messages is None}", stream=stream, messages=messages)
    asking = dataclasses.replace(asking, prompt=None if messages else "one two")
    adapter = registry.get("simulated")
    seen, complete = send(adapter.encode(asking, simulated.endpoint))
    answer = adapter.decode(asking, seen)
    assert complete
    assert (answer.text, answer.output_tokens, answer.failure) == (" tick" * 8, 8, None)
    assert answer.token_source is TokenSource.TOKEN_IDS
    logged = simulated.log_of(asking.request_id)
    sent = logged["sent_ns"]
    assert len(sent) == (8 if stream else 1)
    # Same clock: sent no earlier than due, and seen no earlier than sent.
    assert sent[0] - logged["arrival_ns"] >= 2_000_000
    stamps = [stamp for stamp, event in zip(seen.chunk_ns, answer.events, strict=True) for _ in range(event.tokens)]
    assert seen.sent_ns - 50_000_000 < logged["arrival_ns"] <= sent[0] <= sent[-1]
    if stream:
        assert all(came > began for came, began in zip(stamps, logged["began_ns"], strict=True))
        assert all(left > began for left, began in zip(sent, logged["began_ns"], strict=True))
        assert all(later >= earlier for earlier, later in pairwise(sent))


@pytest.mark.parametrize(
    ("simulate", "stream", "kind", "num_tokens"),
    [
        ({"status": 503}, True, FailureKind.HTTP_STATUS, None),
        ({"status": 429, "retry_after_s": 4}, False, FailureKind.RATE_LIMITED, None),
        ({"error_body": True}, True, FailureKind.SERVER_ERROR, None),
        ({"error_body": True}, False, FailureKind.SERVER_ERROR, None),
        ({"empty": True}, True, FailureKind.TRUNCATED, None),
        ({"empty": True}, False, FailureKind.TRUNCATED, None),
        ({"error_after": 3}, True, FailureKind.SERVER_ERROR, 3),
        ({"error_after": 0}, True, FailureKind.SERVER_ERROR, None),
        ({"malformed_after": 3}, True, FailureKind.MALFORMED, 8),
        ({"no_done": True}, True, FailureKind.TRUNCATED, 8),
        ({"cut_after": 3}, True, FailureKind.TRUNCATED, 3),
        ({"cut_after": 0}, False, FailureKind.MALFORMED, None),
        ({"tokens_per_chunk": 3, "itl_ms": 0}, True, None, 8),
        ({"stall_at": 2, "stall_s": 0.05, "jitter_ms": 1}, True, None, 8),
    ],
)
def test_every_fault_lands_as_its_kind(simulated, send, simulate, stream, kind, num_tokens) -> None:
    adapter, asking = asked(f"fault-{json.dumps(simulate)}-{stream}", stream, **simulate)
    seen, complete = send(adapter.encode(asking, simulated.endpoint))
    answer = adapter.decode(asking, seen)
    assert (None if answer.failure is None else answer.failure.kind) is kind
    assert answer.output_tokens == num_tokens
    assert complete == ("cut_after" not in simulate)


def test_a_connection_serves_one_request_after_the_other_even_if_they_come_early(simulated) -> None:
    adapter = OpenAIAdapter()
    payloads = [
        adapter.encode(request(f"early-{index}", max_tokens=2), simulated.endpoint).payload for index in range(3)
    ]
    with socket.create_connection((simulated.endpoint.host, simulated.endpoint.port), timeout=10) as sock:
        sock.sendall(b"".join(payloads))
        received = b""
        while received.count(b"data: [DONE]") < 3:
            received += sock.recv(65536)
    at = [received.index(f"sim-early-{index}".encode()) for index in range(3)]
    assert at == sorted(at)


def test_garbage_is_refused_and_the_server_goes_on(simulated, send) -> None:
    with socket.create_connection((simulated.endpoint.host, simulated.endpoint.port), timeout=10) as sock:
        sock.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        assert b"400 Bad Request" in sock.recv(65536)
        assert sock.recv(65536) == b""
    adapter, asking = asked("after-garbage")
    assert adapter.decode(asking, send(adapter.encode(asking, simulated.endpoint))[0]).failure is None


def test_a_client_that_does_not_read_is_waited_for_and_one_that_leaves_is_noted(simulated) -> None:
    wire = OpenAIAdapter(settings={"extra_body": {"simulate": {"itl_ms": 0, "ttft_ms": 0}}}).encode(
        request("slow", max_tokens=200_000), simulated.endpoint
    )
    with socket.create_connection((simulated.endpoint.host, simulated.endpoint.port), timeout=10) as sock:
        sock.sendall(wire.payload)
        sock.recv(1000)
    logged = simulated.log_of("slow")
    assert logged["outcome"] == "client gone"
    assert len(logged["sent_ns"]) < 200_000


def test_answers_under_way_are_logged_when_the_server_is_stopped(simulate, send) -> None:
    with simulate("--ttft-ms=1", "--itl-ms=50") as server:
        wire = OpenAIAdapter().encode(request("under-way", max_tokens=1000), server.endpoint)
        with socket.create_connection((server.endpoint.host, server.endpoint.port), timeout=10) as sock:
            sock.sendall(wire.payload)
            while b" tick" not in sock.recv(65536):
                pass
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 0
    logged = server.log_of("under-way")
    assert logged["outcome"] == "server stopped"
    assert 1 <= len(logged["sent_ns"]) < 1000


def test_the_launch_plan_starts_a_server_that_gets_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    plan = registry.get("simulated").launch_plan(EngineOptions("simulated", "mine", settings={"ttft_ms": 3}), port)
    assert plan is not None
    with subprocess.Popen(plan.argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == f"Listening on {plan.endpoint.url}"
            with urllib.request.urlopen(f"{plan.endpoint.url}{plan.ready_path}", timeout=10) as answer:
                assert answer.status == 200
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--itl-ms=-1"], "itl_ms must be between 0 and"),
        (["--log=/no/such/folder/x"], "/no/such/folder/x: No such file or directory"),
        (["--ttf-ms=x"], "unrecognized arguments"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(options: list[str], part: str) -> None:
    command = [sys.executable, "-m", "llmbench.engines.simulated_server", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert part in done.stderr.splitlines()[-1]


def test_a_port_in_use_is_one_sentence(simulated) -> None:
    command = [sys.executable, "-m", "llmbench.engines.simulated_server", "--port", str(simulated.endpoint.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert f"127.0.0.1:{simulated.endpoint.port}: Address already in use" in done.stderr.splitlines()[-1]
