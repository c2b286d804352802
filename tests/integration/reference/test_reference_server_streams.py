"""The server by WebSocket and gRPC, asked by clients that share nothing with it but the wire."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_tools import protoc
from stream_clients import Caller, Grpc
from wsproto.events import TextMessage

from llmbench.reference_engine import server as server_package

PROTO = Path(server_package.__file__).with_name("generation.proto")
BODY = {"model": "tiny", "prompt": "Words", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
LONG = {**BODY, "max_tokens": 480, "stream": True}


@pytest.fixture
def speak(server) -> Callable[..., Caller]:
    def start(body: object, path: str = "/v1/completions") -> Caller:
        caller = Caller(server.url, path)
        caller.say(TextMessage(data=body if isinstance(body, str) else json.dumps(body)))
        return caller

    return start


def test_websocket_messages_are_the_events_of_the_stream(server, speak) -> None:
    told = server.ask("/v1/completions", BODY).json()
    options = {"include_usage": True}
    caller = speak({**BODY, "stream": True, "stream_options": options})
    *events, usage, done = caller.messages()
    assert (done, caller.code) == ("[DONE]", 1000)
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == told["choices"][0]["text"]
    assert len(events) == 12
    assert json.loads(usage)["usage"] == told["usage"] | {
        "prompt_tokens_details": json.loads(usage)["usage"]["prompt_tokens_details"]
    }


def test_websocket_answers_a_chat_in_one_message(server, speak) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}
    caller = speak(body, "/v1/chat/completions")
    (message,) = caller.messages()
    assert caller.code == 1000
    told = server.ask("/v1/chat/completions", body).json()
    assert json.loads(message)["choices"] == told["choices"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ({**BODY, "max_tokenz": 3}, "'max_tokenz' is not supported"),
        ({**BODY, "model": "other"}, "'other' is not served here"),
        ({**BODY, "prompt": [10] * 600}, "context length is 512"),
    ],
)
def test_websocket_refusal_is_a_message_and_a_close_code(speak, body, says) -> None:
    caller = speak(body)
    (message,) = caller.messages()
    assert caller.code == 1008
    assert says in json.loads(message)["error"]["message"]


def test_websocket_client_that_leaves_frees_its_blocks(server, speak) -> None:
    aborted = server.gauge("llmbench:aborted_requests_total")
    callers = [speak(LONG) for _ in range(3)]
    for caller in callers:
        next(caller.messages())
        caller.socket.close()
    server.wait_for("llmbench:kv_blocks_used", 0)
    assert server.gauge("llmbench:aborted_requests_total") > aborted


def test_websocket_client_that_says_nothing_harms_nobody(server) -> None:
    silent = Caller(server.url, "/v1/completions")
    assert server.ask("/v1/completions", BODY).status == 200
    silent.socket.close()
    assert server.ask("/health").status == 200
    assert "Traceback" not in server.log


def test_websocket_answer_is_finished_within_the_drain_time_and_no_other_begun(start_server, tiny_model) -> None:
    server = start_server(tiny_model, "--drain-s", "60")
    caller = Caller(server.url, "/v1/completions")
    caller.say(TextMessage(data=json.dumps(LONG)))
    messages = caller.messages()
    next(messages)
    server.process.send_signal(signal.SIGTERM)
    server.wait_until_draining()
    late = Caller(server.url, "/v1/completions")
    late.say(TextMessage(data=json.dumps(BODY)))
    (refusal,) = late.messages()
    assert json.loads(refusal)["error"]["message"] == "The server is stopping."
    assert late.code == 1013
    *rest, done = messages
    assert (len(rest), done, caller.code) == (479, "[DONE]", 1000)
    assert server.process.wait(timeout=20) == 0


def test_grpc_answer_is_finished_within_the_drain_time_and_no_other_begun(start_server, tiny_model, described) -> None:
    server = start_server(tiny_model, "--drain-s", "60", "--grpc-port", "0")
    port = server.log.split("serving gRPC on port ")[1].split()[0]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        client = Grpc(channel, described)
        replies = client.generate(client.message(model="tiny", prompt="a", max_tokens=480, ignore_eos=True))
        next(replies)
        server.process.send_signal(signal.SIGTERM)
        server.wait_until_draining()
        with pytest.raises(grpc.RpcError) as caught:
            ask(client, prompt="a")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ("retry-after", "1") in [(key, value) for key, value in caught.value.trailing_metadata()]
        *_, last = replies
    assert (last.completion_tokens, last.finish_reason) == (480, "length")
    assert server.process.wait(timeout=20) == 0
    assert "Traceback" not in server.log


MUCH = {"max_tokens": 400, "n": 16}  # more than the sockets hold, and computed long before it is read


def stop_and_look_away(server: Any) -> None:
    """For longer than what is left to answers that are complete."""
    server.wait_for("vllm:num_requests_running", 0, timeout_s=100)
    server.process.send_signal(signal.SIGTERM)
    server.wait_until_draining()
    time.sleep(4)
    assert server.process.poll() is None


def test_websocket_client_that_reads_slowly_gets_all_of_its_answer(start_server, tiny_model) -> None:
    server = start_server(tiny_model, "--drain-s", "60")
    caller = Caller(server.url, "/v1/completions", receive_buffer=4096)
    caller.say(TextMessage(data=json.dumps({**LONG, **MUCH, "logprobs": 20})))
    messages = caller.messages()
    next(messages)
    stop_and_look_away(server)
    *rest, done = messages
    assert (len(rest), done, caller.code) == (16 * 400 - 1, "[DONE]", 1000)
    assert server.process.wait(timeout=20) == 0
    assert "Traceback" not in server.log


def test_grpc_client_that_reads_slowly_gets_all_of_its_answer(start_server, tiny_model, described) -> None:
    server = start_server(tiny_model, "--drain-s", "60", "--grpc-port", "0")
    port = server.log.split("serving gRPC on port ")[1].split()[0]
    window = ("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=window) as channel:
        client = Grpc(channel, described)
        replies = client.generate(client.message(model="tiny", prompt="a", ignore_eos=True, **MUCH))
        next(replies)
        stop_and_look_away(server)
        assert sum(1 for _ in replies) == 16 * 400 - 1
    assert server.process.wait(timeout=20) == 0
    assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """generation.proto, compiled by protoc."""
    compiled = tmp_path_factory.mktemp("proto") / "set"
    assert protoc.main(["", f"-I{PROTO.parent}", f"--descriptor_set_out={compiled}", PROTO.name]) == 0
    return compiled.read_bytes()


def test_descriptor_is_that_of_the_proto(described) -> None:
    assert PROTO.with_suffix(".binpb").read_bytes() == described, "run `make proto`"


@pytest.fixture(scope="module")
def grpc_server(start_server, tiny_model) -> Any:
    return start_server(tiny_model, "--grpc-port", "0", "--max-num-seqs", "2", "--max-waiting", "1")


@pytest.fixture
def client(grpc_server, described) -> Iterator[Grpc]:
    port = grpc_server.log.split("serving gRPC on port ")[1].split()[0]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Grpc(channel, described)


def ask(client: Grpc, **fields: Any) -> list[Any]:
    request = client.message(model="tiny", max_tokens=12, temperature=0, ignore_eos=True)
    request.MergeFrom(client.message(**fields))
    return list(client.generate(request))


def test_grpc_replies_are_the_tokens_of_http(grpc_server, client) -> None:
    told = grpc_server.ask("/v1/completions", {**BODY, "return_token_ids": True}).json()
    replies = ask(client, prompt="Words")
    assert [token for reply in replies for token in reply.token_ids] == told["choices"][0]["token_ids"]
    assert "".join(reply.text for reply in replies) == told["choices"][0]["text"]
    assert [reply.completion_tokens for reply in replies] == list(range(1, 13))
    assert [reply.finish_reason for reply in replies] == [""] * 11 + ["length"]
    assert replies[0].prompt_tokens == told["usage"]["prompt_tokens"]
    by_ids = ask(client, prompt_token_ids=told["choices"][0]["prompt_token_ids"])
    assert "".join(reply.text for reply in by_ids) == told["choices"][0]["text"]


def test_grpc_request_id_is_echoed_or_made_and_logged(grpc_server, client) -> None:
    request = client.message(model="tiny", prompt="a", max_tokens=1)
    call = client.generate(request, metadata=(("x-request-id", "mine-7"),))
    list(call)
    assert ("x-request-id", "mine-7") in call.initial_metadata()
    assert "request_id=mine-7" in grpc_server.log
    for metadata in ((), (("x-request-id", "z" * 3000),)):
        call = client.generate(request, metadata=metadata)
        list(call)
        assert len(dict(call.initial_metadata())["x-request-id"]) == 32


def test_grpc_chats_and_takes_further_fields(grpc_server, client) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    bias = {"logit_bias": {"77": 100}}
    replies = ask(client, messages=messages, n=2, extra_json=json.dumps(bias))
    assert {reply.index for reply in replies} == {0, 1}
    assert {token for reply in replies for token in reply.token_ids} == {77}


def test_grpc_beams_are_those_of_http(grpc_server, client) -> None:
    beams = {"use_beam_search": True, "best_of": 2, "length_penalty": 0.5}
    told = grpc_server.ask("/v1/completions", {**BODY, **beams, "n": 2, "return_token_ids": True}).json()
    replies = sorted(ask(client, prompt="Words", n=2, extra_json=json.dumps(beams)), key=lambda reply: reply.index)
    assert [list(reply.token_ids) for reply in replies] == [choice["token_ids"] for choice in told["choices"]]
    assert [reply.text for reply in replies] == [choice["text"] for choice in told["choices"]]
    assert {(reply.finish_reason, reply.completion_tokens) for reply in replies} == {("length", 12)}


REFUSED = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"prompt": "a", "model": "other"}, grpc.StatusCode.NOT_FOUND, "'other' is not served here"),
        ({}, REFUSED, "Give one of prompt, prompt_token_ids, messages; there is none"),
        ({"prompt": "a", "prompt_token_ids": [1]}, REFUSED, "there is prompt and prompt_token_ids"),
        ({"prompt": "a", "temperature": -1}, REFUSED, "'temperature': Input should be greater"),
        ({"prompt_token_ids": [99999]}, REFUSED, "outside the vocabulary"),
        ({"prompt": "a", "extra_json": "{"}, REFUSED, "extra_json is not JSON"),
        ({"prompt": "a", "extra_json": "[" * 100_000}, REFUSED, "extra_json is not JSON"),
        ({"prompt": "a", "extra_json": '{"\\ud800": 1}'}, REFUSED, "extra_json is not JSON"),
        ({"prompt": "a", "extra_json": '{"min_p": %s}' % ("1" * 5000)}, REFUSED, "extra_json is not JSON"),
        ({"prompt": "a", "extra_json": "[]"}, REFUSED, "must hold a JSON object"),
        ({"prompt": "a", "extra_json": '{"logprobs": 1}'}, REFUSED, "'logprobs' of extra_json is not supported"),
        ({"prompt": "a", "extra_json": '{"seed": 1}'}, REFUSED, "'seed' of extra_json is a field"),
        (
            {"prompt": "a", "extra_json": '{"use_beam_search": true, "min_p": 0.5}'},
            REFUSED,
            "'min_p' has no meaning with",
        ),
        ({"prompt": "a", "extra_json": '{"mini_p": 1}'}, REFUSED, "'mini_p' is not supported"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_grpc_refuses_by_name(client, fields, code, says) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(client, **fields)
    assert caught.value.code() is code
    assert says in caught.value.details()


def test_grpc_message_that_is_none(grpc_server, client, described) -> None:
    port = grpc_server.log.split("serving gRPC on port ")[1].split()[0]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream("/llmbench.Generation/Generate")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(b"\xff\xff\xff"))
    assert caught.value.code() is REFUSED


def test_grpc_cancel_frees_blocks_and_too_many_are_told_so(grpc_server, client) -> None:
    long = client.message(model="tiny", prompt="a", max_tokens=480, ignore_eos=True)
    calls = [client.generate(long) for _ in range(3)]
    grpc_server.wait_for("vllm:num_requests_waiting", 1)
    with pytest.raises(grpc.RpcError) as caught:
        ask(client, prompt="a")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("retry-after", "1") in [(key, value) for key, value in caught.value.trailing_metadata()]
    for call in calls:
        call.cancel()
    grpc_server.wait_for("vllm:num_requests_waiting", 0)
    grpc_server.wait_for("llmbench:kv_blocks_used", 0)
    assert grpc_server.gauge("llmbench:aborted_requests_total") >= 1
    assert "Traceback" not in grpc_server.log


def test_grpc_port_in_use_is_one_sentence(serve_command, tiny_model) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [*serve_command(tiny_model), "--grpc-port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"gRPC cannot listen on 127.0.0.1:{port}; is the port taken?" in done.stderr.splitlines()
