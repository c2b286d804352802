"""How a server begins and ends, and what happens to those who are talking to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

LONG = {"model": "tiny", "prompt": "a", "max_tokens": 480, "ignore_eos": True}


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_frees_its_blocks(server, stream) -> None:
    aborted = server.gauge("llmbench:aborted_requests_total")
    connections = [open_request(server, {**LONG, "stream": stream}) for _ in range(4)]
    wait_until(lambda: server.gauge("llmbench:kv_blocks_used") > 0)
    for connection in connections:
        connection.close()
    server.wait_for("vllm:num_requests_running", 0)
    server.wait_for("llmbench:kv_blocks_used", 0)
    # A fast machine may have finished one before its client was seen to leave.
    assert server.gauge("llmbench:aborted_requests_total") > aborted


def test_client_that_leaves_in_mid_batch_frees_every_prompt_of_it(server) -> None:
    connection = open_request(server, {**LONG, "prompt": ["a", "b", "c"], "stream": True})
    wait_until(lambda: server.gauge("vllm:num_requests_running") == 3)
    connection.close()
    server.wait_for("llmbench:kv_blocks_used", 0)


def test_health_is_answered_while_the_engine_computes(server) -> None:
    connection = open_request(server, {**LONG, "stream": True})
    wait_until(lambda: server.gauge("vllm:num_requests_running") == 1)
    assert server.ask("/health").status == 200
    connection.close()
    server.wait_for("vllm:num_requests_running", 0)


def test_sigterm_ends_server_and_engine(start_server, tiny_model) -> None:
    server = start_server(tiny_model, "--drain-s", "0")
    engine_pid = server.engine_pid
    connection = open_request(server, {**LONG, "stream": True})
    wait_until(lambda: server.gauge("vllm:num_requests_running") == 1)
    response = connection.getresponse()
    assert server.stop() == 0
    assert is_gone(engine_pid)
    assert b"The server is stopping." in response.read()
    connection.close()
    assert "Traceback" not in server.log


def test_a_running_answer_is_finished_within_the_drain_time(start_server, tiny_model) -> None:
    server = start_server(tiny_model, "--drain-s", "60")
    connection = open_request(server, {**LONG, "stream": True})
    response = connection.getresponse()
    response.read(10)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.ask("/health").status == 503)
    refused = server.ask("/v1/completions", LONG)
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["message"] == "The server is stopping."
    assert response.read().endswith(b"data: [DONE]\n\n")
    assert server.process.wait(timeout=20) == 0
    connection.close()


def test_a_client_that_reads_slowly_gets_all_of_its_answer(start_server, tiny_model) -> None:
    """More than the sockets hold, and computed long before it is read."""
    server = start_server(tiny_model, "--drain-s", "60")
    connection = server.connect()
    connection.sock = socket.socket()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sock.connect((connection.host, connection.port))
    body = {**LONG, "max_tokens": 400, "n": 16, "logprobs": 20, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(body))
    wait_until(lambda: server.gauge("vllm:num_requests_running") == 16)
    wait_until(lambda: server.gauge("vllm:num_requests_running") == 0, timeout_s=100)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: is_closed(server))
    time.sleep(3)  # what is not sent would be cut off by now
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
    answer = connection.getresponse().read()
    assert len(answer) > 4_000_000
    assert answer.endswith(b"data: [DONE]\n\n")
    connection.close()
    assert server.process.wait(timeout=20) == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_clients_that_do_not_read_have_left_when_the_server_ends(start_server, tiny_model, signals: int) -> None:
    server = start_server(tiny_model, "--drain-s", "1")
    body = json.dumps({**LONG, "max_tokens": 400, "n": 16, "logprobs": 20, "stream": True})
    connections = [server.connect() for _ in range(2)]
    for connection in connections:
        connection.sock = socket.socket()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sock.connect((connection.host, connection.port))
        connection.request("POST", "/v1/completions", body)
    wait_until(lambda: server.gauge("vllm:num_requests_running") == 32)
    wait_until(lambda: server.gauge("vllm:num_requests_running") == 0, timeout_s=100)
    for _ in range(signals):
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_stopping(server))
    assert server.process.wait(timeout=20) == 0
    assert server.log.count("INFO client left") == 2
    assert "ERROR" not in server.log
    assert "xception" not in server.log
    for connection in connections:
        connection.close()


def test_told_twice_to_stop_it_stops_at_once(start_server, tiny_model) -> None:
    server = start_server(tiny_model)
    connection = open_request(server, {**LONG, "stream": True})
    response = connection.getresponse()
    response.read(10)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.ask("/health").status == 503)
    server.process.send_signal(signal.SIGTERM)
    assert b"[DONE]" not in response.read()
    assert server.process.wait(timeout=20) == 0
    connection.close()


def test_one_request_too_many_is_told_to_come_back(start_server, tiny_model) -> None:
    server = start_server(tiny_model, "--max-num-seqs", "1", "--max-waiting", "1", "--log-format", "json")
    first, second = (open_request(server, {**LONG, "stream": True}) for _ in range(2))
    server.wait_for("vllm:num_requests_waiting", 1)
    third = server.ask("/v1/completions", LONG, x_request_id="third")
    assert third.status == 429
    assert third.headers["retry-after"] == "1"
    assert "2 requests are running or waiting" in third.json()["error"]["message"]
    first.close()
    server.wait_for("vllm:num_requests_waiting", 0)
    reply = server.ask("/v1/completions", {**LONG, "max_tokens": 3}, x_request_id="fourth")
    assert reply.status == 200
    second.close()
    server.stop()
    lines = [json.loads(line) for line in server.log.splitlines()]
    (answered,) = [line for line in lines if line.get("request_id") == "fourth"]
    assert (answered["event"], answered["completion_tokens"]) == ("answered", 3)
    assert "client left" in [line["event"] for line in lines]


def test_requests_that_come_at_once_do_not_slip_by_the_limit(start_server, tiny_model) -> None:
    server = start_server(tiny_model, "--max-num-seqs", "1", "--max-waiting", "1")
    connections = [server.connect() for _ in range(12)]
    for connection in connections:
        connection.request("GET", "/health")
        connection.getresponse().read()
    server.process.send_signal(signal.SIGSTOP)  # so that it finds all of them when it looks
    for connection in connections:
        connection.request("POST", "/v1/completions", json.dumps({**LONG, "max_tokens": 60}))
    server.process.send_signal(signal.SIGCONT)
    responses = [connection.getresponse() for connection in connections]
    assert sorted(response.status for response in responses) == [200] * 2 + [429] * 10
    assert {response.headers["retry-after"] for response in responses if response.status == 429} == {"1"}
    server.wait_for("llmbench:kv_blocks_used", 0)
    for connection in connections:
        connection.close()
    assert "Traceback" not in server.log


def test_killed_server_leaves_no_engine(start_server, tiny_model) -> None:
    server = start_server(tiny_model)
    engine_pid = server.engine_pid
    server.process.kill()
    server.process.wait()
    wait_until(lambda: is_gone(engine_pid))


def test_dead_engine_fails_its_requests_and_ends_the_server(start_server, tiny_model) -> None:
    server = start_server(tiny_model)
    whole, streamed = (open_request(server, {**LONG, "stream": stream}) for stream in (False, True))
    response = streamed.getresponse()
    response.read(10)  # the stream is under way
    os.kill(server.engine_pid, signal.SIGKILL)
    answer = whole.getresponse()
    assert answer.status == 500
    assert "engine ended unexpectedly" in json.loads(answer.read())["error"]["message"]
    rest = response.read()
    assert b"engine ended unexpectedly" in rest
    assert b"[DONE]" not in rest
    assert server.process.wait(timeout=20) == 1
    assert "The engine process ended unexpectedly" in server.log
    for connection in (whole, streamed):
        connection.close()


def test_port_in_use_is_one_sentence(serve_command, tiny_model) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run([*serve_command(tiny_model), "--port", str(port)])
    assert done.returncode == 2
    assert done.stderr == f"Port {port} on 127.0.0.1 cannot be listened on: Address already in use.\n"


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "tokenizer.json"),
        (lambda folder: (folder / "config.json").unlink(), "config.json does not exist"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "not a tokenizer"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "not valid JSON"),
        (truncate_weights, "not a readable safetensors file"),
    ],
    ids=["no folder", "no config", "no tokenizer", "bad tokenizer", "bad tokenizer config", "truncated"],
)
def test_bad_checkpoint_is_one_sentence(serve_command, tiny_model, tmp_path, spoil, says) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    spoil(folder)
    done = run(serve_command(folder))
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-num-seqs", "64", "--max-num-batched-tokens", "32"], "max_num_batched_tokens (32) must be at least"),
        (["--num-blocks", "4", "--kv-cache-gib", "1"], "give one of them"),
        (["--max-model-len", "4096"], "max_model_len is 4096, but the model's is 512"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid cannot be listened on"),
    ],
)
def test_bad_settings_are_one_sentence(serve_command, tiny_model, options, says) -> None:
    done = run([*serve_command(tiny_model), *options])
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def is_stopping(server) -> bool:
    try:
        return server.ask("/health").status == 503
    except ConnectionError:  # closed by now
        return True


def is_closed(server) -> bool:
    try:
        server.ask("/health")
    except ConnectionError:
        return True
    return False


def is_gone(pid: int) -> bool:
    try:
        # Nobody may be there to collect it.
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def open_request(server, body: dict):
    connection = server.connect()
    connection.request("POST", "/v1/completions", json.dumps(body))
    return connection


def wait_until(condition, timeout_s: float = 20) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)
