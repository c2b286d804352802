"""Retries as a user has them: from the workload to the rows, the table, the report and the exports."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from shy_server import asks, asks_at_once, attempts_of_which_half_were_lost, shy_server
from workplace import load_workers, num_stored

from llmbench.results.run_directory import Run


@pytest.fixture
def shy() -> Iterator[Any]:
    with contextlib.ExitStack() as servers:
        yield lambda *how: servers.enter_context(shy_server(*how))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_request_that_was_refused_is_sent_again_and_counts_once(workplace: Any, shy: Any, workers: str) -> None:
    workload = asks(workplace, shy(1))
    done = workplace.run("run", workload, "--workers", workers, "--out", "out", "--allow-invalid")
    assert done.returncode == 0, done.stderr
    rows = Run.open(workplace.folder / "out").requests.sort_by([("index", "ascending"), ("attempt", "ascending")])
    found = rows.to_pydict()
    assert found["attempt"] == [1, 2] * 6
    assert found["status"] == ["failed", "ok"] * 6
    assert found["error_kind"] == ["rate_limited", None] * 6
    assert len(set(found["request_id"])) == 12
    for first in range(0, 12, 2):
        assert found["due_ns"][first + 1] == found["due_ns"][first], "latency runs from when the first was due"
        assert found["attempt_due_ns"][first + 1] == found["end_ns"][first] + 50_000_000
        assert found["sent_ns"][first + 1] >= found["attempt_due_ns"][first + 1]
    said = "6 of 6 requests were sent again, 12 attempts in all (6 × rate limited); 6 of them ended well"
    assert said in done.stdout
    assert said in (workplace.folder / "out" / "report.html").read_text()
    exported = workplace.run("report", "out", "--export", "json")
    assert exported.returncode == 0, exported.stderr
    [row] = json.loads((workplace.folder / "out" / "summary.json").read_text())["rows"]
    assert (row["num_requests"], row["num_failed"]) == (6, 0)
    assert row["metrics"]["attempts"]["total"] == 2
    assert row["metrics"]["ttft"]["p50"] >= 50


def test_retry_after_is_waited_for_and_attempts_run_out(workplace: Any, shy: Any) -> None:
    workload = asks(
        workplace,
        shy(5, "1"),
        {"attempts": 2},
        traffic={"requests": 2, "warmup_requests": 0, "arrivals": {"kind": "burst"}},
    )
    done = workplace.run("run", workload, "--out", "out")
    assert done.returncode == 5, "nothing was answered"
    found = Run.open(workplace.folder / "out").requests.sort_by("request_id").to_pydict()
    assert found["attempt"] == [1, 2, 1, 2]
    assert found["error_kind"] == ["rate_limited"] * 4
    assert found["attempt_due_ns"][1] == found["end_ns"][0] + 1_000_000_000
    assert "none of 2 requests succeeded" in done.stdout


def test_a_worker_lost_while_its_requests_wait_ends_them_as_rows(workplace: Any, shy: Any, eventually: Any) -> None:
    workload = asks_at_once(workplace, shy(1), wait_s=8.0)
    process = workplace.start("run", workload, "--workers", "2", "--out", "out")
    eventually(lambda: num_stored(workplace.folder / "out") == 6)
    victim, _ = load_workers(process)
    victim.kill()
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 5, stdout + stderr
    assert "Traceback" not in stderr
    found, lost = attempts_of_which_half_were_lost(Run.open(workplace.folder / "out"), wait_s=8.0)
    for row in lost:
        assert found["error"][row].startswith("This request was not sent: load worker")
        assert found["error"][row].endswith("was ended by SIGKILL.")
        assert found["sent_ns"][row] is None
    assert "6 of 6 requests were sent again" in stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_does_not_wait_for_requests_that_wait(workplace: Any, shy: Any, eventually: Any, workers: str) -> None:
    workload = asks(
        workplace,
        shy(1),
        {"wait_s": 25.0},
        traffic={"requests": 6, "warmup_requests": 0, "arrivals": {"kind": "burst"}},
    )
    process = workplace.start("run", workload, "--workers", workers, "--out", "out")
    eventually(lambda: num_stored(workplace.folder / "out") == 6)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=15)
    assert process.returncode == 130, stdout + stderr
    found = Run.open(workplace.folder / "out").requests.to_pydict()
    assert (found["attempt"], found["error_kind"]) == ([1] * 6, ["rate_limited"] * 6)
    assert "answered 0 of 6 requests" in stdout


def test_a_turn_that_is_sent_again_is_followed_by_the_next(workplace: Any, shy: Any) -> None:
    talk = {"kind": "conversations", "turns": 2, "prompt_tokens": 8, "output_tokens": 1, "think_s": 0.0}
    workload = asks(workplace, shy(1), prompts=talk, tokenizer=None, model="synthetic:llama-tiny")
    done = workplace.run("run", workload, "--out", "out", "--allow-invalid")
    assert done.returncode == 0, done.stderr
    rows = Run.open(workplace.folder / "out").requests.sort_by([("index", "ascending"), ("attempt", "ascending")])
    found = rows.to_pydict()
    assert found["attempt"] == [1, 2] * 6
    assert found["status"] == ["failed", "ok"] * 6
    for first in range(0, 12, 4):
        assert found["due_ns"][first + 2] == found["end_ns"][first + 1], "after the answer, not after the refusal"


def test_a_server_that_comes_up_late_is_reached(serve_late: Any) -> None:
    failed, answered = serve_late
    assert (failed.attempt, failed.failure.kind) == (1, "connect")
    assert failed.retry_due_ns == failed.end_ns + 50_000_000
    assert answered.failure is None
    assert answered.attempt >= 2
    assert answered.first_due_ns == failed.due_ns


@pytest.fixture
def serve_late() -> Any:
    """The first and the last attempt of a request whose server begins to listen once it has been refused."""
    from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest, Timeline, WireRequest
    from llmbench.harness.loadgen import Outgoing, StopFlag, run_load
    from llmbench.harness.retries import Retries
    from llmbench.workloads.spec import RetrySpec, TimeoutSpec

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody else gets this port, and nobody listens on it
        attempts: list[Timeline] = []
        threads: list[threading.Thread] = []

        def serve() -> None:
            peer, _ = held.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

        def on_done(request_id: str, timeline: Timeline) -> None:
            attempts.append(timeline)
            if not threads:
                held.listen()
                threads.append(threading.Thread(target=serve))
                threads[0].start()

        asked = {"r": GenerationRequest("r", "m", 1, prompt="x")}
        policy = RetrySpec(attempts=5, backoff="fixed", wait_s=0.05, jitter=0.0)
        wire = WireRequest("http", Endpoint("127.0.0.1", held.getsockname()[1]), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        run_load(
            [Outgoing("r", 0, wire)],
            concurrency=None,
            timeouts=TimeoutSpec(),
            on_done=on_done,
            stop=StopFlag(),
            retries=Retries(policy, asked, lambda request, timeline: DecodedAnswer((), failure=timeline.failure)),
        )
        threads[0].join()
        return attempts[0], attempts[-1]


def test_a_dry_run_says_what_would_be_sent_again_and_left_out(workplace: Any, shy: Any) -> None:
    workload = asks(workplace, shy(0))
    done = workplace.run("run", workload, "--dry-run", "--set", "measure.warmup=1 requests")
    assert "sent again after connect, connect timeout, rate limited, http status: up to 3 attempts" in done.stdout
    assert "left out of the figures: warm-up 1 requests, cool-down none" in done.stdout
    assert "sent again" not in workplace.run("run", workload, "--dry-run", "--set", "measure.retries=null").stdout
