"""A llama-tiny checkpoint, and servers of it as processes of their own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest

START_S = 60


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running server. `log` is what it printed so far."""

    process: subprocess.Popen[bytes]
    log_path: Path
    url: str

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def engine_pid(self) -> int:
        return self.child_pid("engine_process")

    def child_pid(self, module: str) -> int:
        (pid,) = [
            child.pid
            for child in psutil.Process(self.process.pid).children()
            if any(argument.endswith(module) for argument in child.cmdline())
        ]
        return pid

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)

    def ask(self, path: str, body: object = None, **headers: str) -> Reply:
        """GET without a body, else POST: bytes as they are, anything else as JSON."""
        connection = self.connect()
        payload = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if body is None else "POST", path, payload, given)
        response = connection.getresponse()
        reply = Reply(response.status, response.headers, response.read())
        connection.close()
        return reply

    def gauge(self, name: str) -> float:
        text = self.ask("/metrics").body.decode()
        return float(re.search(rf"^{re.escape(name)}{{[^}}]*}} (\S+)$", text, re.MULTILINE)[1])

    def wait_for(self, name: str, value: float, timeout_s: float = 20) -> None:
        give_up = time.monotonic() + timeout_s
        while (seen := self.gauge(name)) != value:
            assert time.monotonic() < give_up, f"{name} stayed at {seen}, not {value}"
            time.sleep(0.02)

    def wait_until_draining(self, timeout_s: float = 20) -> None:
        give_up = time.monotonic() + timeout_s
        while self.ask("/health").status != 503:
            assert time.monotonic() < give_up, "the signal was not heard"
            time.sleep(0.01)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from llmbench.reference_engine.models import synthetic

    return synthetic.create("synthetic:llama-tiny", out=tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def serve_command() -> Callable[..., list[str]]:
    def command(model: Path, *options: str) -> list[str]:
        argv = [sys.executable, "-m", "llmbench.reference_engine", "serve", "--model", str(model), "--port", "0"]
        return [*argv, "--threads", "1", "--kernels", "torch", *options]

    return command


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory, serve_command: Callable[..., list[str]]
) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(model: Path, *options: str) -> Server:
        log_path = tmp_path_factory.mktemp("server") / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                serve_command(model, "--served-model-name", "tiny", *options),
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        server = Server(process, log_path, "")
        started.append(server)
        give_up = time.monotonic() + START_S
        while (found := re.search(r"serving tiny on (http://[\d.:]+)", server.log)) is None:
            assert process.poll() is None, server.log
            assert time.monotonic() < give_up, server.log
            time.sleep(0.05)
        server.url = found[1]
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server], tiny_model: Path) -> Server:
    """One server that all tests share, which leave it as they found it."""
    return start_server(tiny_model)
