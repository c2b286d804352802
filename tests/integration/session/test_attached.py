"""Engines that run already, reached by the less usual ways: a Unix socket, WebSocket, TLS with one's own authority."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from replies import Replies

from llmbench.harness.process import free_port
from llmbench.results.run_directory import Run

# An engine of one token per answer, as an ASGI application behind uvicorn.
APP = """
import json

TOKEN = {"choices": [{"text": "a", "index": 0, "finish_reason": "length"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
EVENTS = (json.dumps(TOKEN), json.dumps(USAGE), "[DONE]")

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        asked = json.loads((await receive())["text"])
        assert scope["path"] == "/v1/completions" and asked["stream"]
        for event in EVENTS:
            await send({"type": "websocket.send", "text": event})
        await send({"type": "websocket.close", "code": 1000})
    if scope["type"] != "http":
        return
    if scope["method"] == "GET":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"version": "toy 7"}).encode()})
        return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/tokenize":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"count": 99}'})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for event in EVENTS:
        await send({"type": "http.response.body", "body": f"data: {event}\\n\\n".encode(), "more_body": True})
    await send({"type": "http.response.body"})
"""
ONE_TOKEN = {"kind": "text", "path": "prompts.txt", "output_tokens": 1}


@pytest.fixture
def uvicorn(workplace: Any, eventually: Callable[[Callable[[], bool]], None]) -> Any:
    """`uvicorn(*options)` serves the application until the test is over; returns the lines of its log so far."""
    servers: list[subprocess.Popen[bytes]] = []
    (workplace.folder / "toy_app.py").write_text(APP)
    log = workplace.folder / "uvicorn.log"

    def start(*options: str) -> Path:
        with log.open("wb") as out:
            command = [sys.executable, "-m", "uvicorn", "toy_app:app", *options]
            servers.append(subprocess.Popen(command, cwd=workplace.folder, stdout=out, stderr=out))
        eventually(lambda: "Uvicorn running on" in log.read_text())
        return Path(log)

    yield start
    for server in servers:
        server.terminate()
        server.wait()


def test_by_a_unix_socket(workplace: Any, uvicorn: Any) -> None:
    socket_path = workplace.folder / "e.sock"
    uvicorn("--uds", str(socket_path))
    workload = workplace.workload(engines=[{"openai": {"url": f"unix://{socket_path}"}}], prompts=ONE_TOKEN)
    done = workplace.run("run", workload, "--out", "out", "--allow-invalid")
    assert done.returncode == 0, done.stderr
    run = Run.open(workplace.folder / "out")
    assert run.requests["status"].to_pylist() == ["ok"] * 9
    [engine] = run.manifest.engines
    assert (engine.url, engine.version) == (f"unix://{socket_path}", "toy 7")
    [trial] = run.manifest.trials
    assert trial.instrument is not None
    assert trial.instrument.clock == "user space"


def test_a_unix_socket_that_is_not_there(workplace: Any) -> None:
    workload = workplace.workload(engines=[{"openai": {"url": "unix:///no/such.sock"}}], prompts=ONE_TOKEN)
    done = workplace.run("run", workload)
    assert done.returncode == 4
    assert "nobody answers at unix:///no/such.sock (No such file or directory)" in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_by_websocket(workplace: Any, uvicorn: Any, workers: str) -> None:
    log = uvicorn("--port", "0", "--ws", "wsproto")
    [address] = [word for word in log.read_text().split() if word.startswith("http://")]
    engine = {"url": address.replace("http", "ws")}
    workload = workplace.workload(engines=[{"openai": engine}], prompts=ONE_TOKEN)
    done = workplace.run("run", workload, "--workers", workers, "--out", "out", "--allow-invalid")
    assert done.returncode == 0, done.stderr
    run = Run.open(workplace.folder / "out")
    assert run.requests["status"].to_pylist() == ["ok"] * 9
    assert set(run.requests["output_tokens"].to_pylist()) == {1}
    [trial] = run.manifest.trials
    assert trial.instrument is not None
    assert trial.instrument.clock == "user space"


def test_by_tls_with_an_authority_of_ones_own(workplace: Any, uvicorn: Any) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "ca.pem"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True, cwd=workplace.folder)
    log = uvicorn("--port", "0", "--host", "localhost", "--ssl-certfile", "ca.pem", "--ssl-keyfile", "key.pem")
    [address] = [word for word in log.read_text().split() if word.startswith("https://")]
    engine = {"url": f"https://localhost:{address.rsplit(':', 1)[1]}", "tls_ca": "ca.pem"}
    done = workplace.run(
        "run", workplace.workload(engines=[{"openai": engine}], prompts=ONE_TOKEN), "--out", "out", "--allow-invalid"
    )
    assert done.returncode == 0, done.stderr
    run = Run.open(workplace.folder / "out")
    assert run.requests["status"].to_pylist() == ["ok"] * 9
    assert run.manifest.engines[0].version == "toy 7"


def test_an_authority_that_is_none(workplace: Any) -> None:
    (workplace.folder / "ca.pem").write_text("hello")
    engine = {"url": "https://localhost:1", "tls_ca": "ca.pem"}
    done = workplace.run("run", workplace.workload(engines=[{"openai": engine}], prompts=ONE_TOKEN))
    assert done.returncode == 2
    assert "ca.pem holds no certificate in PEM form" in done.stderr


def test_a_server_that_counts_a_prompt_otherwise_is_told_of(workplace: Any, uvicorn: Any) -> None:
    port = free_port()
    uvicorn("--port", str(port))
    prompts = {"kind": "synthetic", "prompt_tokens": 12, "output_tokens": 1}
    engine = {"vllm": {"url": f"http://127.0.0.1:{port}", "model": "toy"}}
    workload = workplace.workload(model="bundled:python-target", engines=[engine], prompts=prompts)
    done = workplace.run("run", workload, "--out", "out", "--allow-invalid")
    assert done.returncode == 0, done.stderr
    problems = Run.open(workplace.folder / "out").manifest.problems
    assert any("counts 99 tokens in the prompt of vllm-r0-00000, planned with 12" in problem for problem in problems)


class OneModel(Replies):
    """A Triton with the model `m`, which has one input and one output."""

    asked: list[str]

    def do_GET(self) -> None:
        config = {"input": [{"name": "PROMPT"}], "output": [{"name": "text_output"}]}
        known = self.path == "/v2/models/m/config"
        self.reply(200 if known else 404, json.dumps(config).encode() if known else b"")

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.reply(500, b"")


def test_a_triton_model_without_the_tensor_is_refused_before_it_is_asked(workplace: Any) -> None:
    handler = type("AskedModel", (OneModel,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        schema = {"prompt": "PROMT", "stream": None, "max_tokens": None}
        engine = {"url": f"http://127.0.0.1:{server.server_address[1]}", "model": "m", "settings": {"schema": schema}}
        workload = workplace.workload(engines=[{"triton": engine}], request={"stream": False})
        done = workplace.run("run", workload, "--out", "out")
        server.shutdown()
    assert done.returncode == 4, done.stderr
    assert "has no input 'PROMT'; it has PROMPT (did you mean PROMPT?)" in done.stderr
    assert handler.asked == []
