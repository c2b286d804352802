"""The simulated engine as a process, and a plain HTTP client that keeps what each read delivered."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httptools
import pytest

from llmbench.engines.wire import Endpoint, Timeline, WireRequest


@dataclass
class Simulated:
    endpoint: Endpoint
    log_path: Path
    process: subprocess.Popen[str]

    def log_of(self, request_id: str) -> dict[str, Any]:
        """The log's entry for a request, once it is there."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for record in map(json.loads, self.log_path.read_text().splitlines()):
                if record["request_id"] == request_id:
                    return record
            time.sleep(0.01)
        raise AssertionError(f"the log has no {request_id}")


@contextlib.contextmanager
def running(log_path: Path, *options: str) -> Iterator[Simulated]:
    command = [sys.executable, "-m", "llmbench.engines.simulated_server", "--port", "0", "--log", str(log_path)]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            yield Simulated(Endpoint("127.0.0.1", int(line.rsplit(":", 1)[1])), log_path, process)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    """One server for all tests: each request brings the behaviour it wants."""
    with running(tmp_path_factory.mktemp("simulated") / "log.jsonl", "--ttft-ms=2", "--itl-ms=1") as server:
        yield server


@pytest.fixture
def simulate(tmp_path: Path) -> Callable[..., contextlib.AbstractContextManager[Simulated]]:
    return lambda *options: running(tmp_path / "log.jsonl", *options)


class _Reader:
    """Collects what one HTTP answer holds; the reads of its body are kept apart."""

    def __init__(self) -> None:
        self.timeline = Timeline(due_ns=0)
        self.complete = False
        self.body: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.timeline.headers.append((name.decode().lower(), value.decode()))

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.complete = True


def exchange(wire: WireRequest) -> tuple[Timeline, bool]:
    """The answer to `wire` over a connection of its own, and whether HTTP says that it is complete."""
    reader = _Reader()
    with socket.create_connection((wire.endpoint.host, wire.endpoint.port), timeout=10) as sock:
        sock.sendall(wire.payload)
        reader.timeline.sent_ns = time.perf_counter_ns()
        while not reader.complete and (data := sock.recv(65536)):
            stamp = time.perf_counter_ns()
            reader.parser.feed_data(data)
            if reader.body:
                reader.timeline.chunk_ns.append(stamp)
                reader.timeline.chunk_bytes.append(b"".join(reader.body))
                reader.body = []
    with contextlib.suppress(httptools.HttpParserError):
        reader.timeline.status = reader.parser.get_status_code()
    return reader.timeline, reader.complete


@pytest.fixture
def send() -> Callable[[WireRequest], tuple[Timeline, bool]]:
    return exchange
