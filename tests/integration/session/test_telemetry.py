"""Telemetry of whole runs: what is read, what is a gap, and what is left when the harness is killed."""

from __future__ import annotations

import http.server
import json
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from replies import Replies

from llmbench.results.run_directory import Run

LENIENT = "--allow-invalid"
KEY = "sk-telemetry-must-not-store-this"
EXPOSITION = """# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{{model_name="toy",secret="{key}"}} {tokens}
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{model_name="toy"}} 1
"""


class Toy(Replies):
    """An OpenAI server of one token per answer, whose metrics answer, then fail in a way of their own each time."""

    answers = 0
    asked: list[str | None]
    faults: list[str]

    def do_GET(self) -> None:
        if self.path != "/metrics":
            self.reply(404, b"")
            return
        self.asked.append(self.headers["authorization"])
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "status":
            self.reply(503, KEY.encode())
        elif fault == "garbage":
            self.reply(200, b"vllm:num_requests_running{{{ " + KEY.encode() + b"\n")
        elif fault == "hang up":
            self.close_connection = True
        else:
            self.reply(200, EXPOSITION.format(key=KEY, tokens=type(self).answers).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).answers += 1
        events = [{"choices": [{"text": "a", "index": 0, "finish_reason": "length"}]}]
        events.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        self.reply(200, body.encode(), "text/event-stream")


@pytest.fixture
def toy() -> Iterator[tuple[type[Toy], int]]:
    handler = type("OneToy", (Toy,), {"answers": 0, "asked": [], "faults": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def toy_workload(workplace: Any, port: int, **engine: Any) -> str:
    settings = {"api_key_env": "TOY_KEY"}
    return workplace.workload(
        engines=[{engine.pop("name", "vllm"): {"url": f"http://127.0.0.1:{port}", "settings": settings, **engine}}],
        prompts={"kind": "text", "path": "prompts.txt", "output_tokens": 1},
        measure={"telemetry_s": 60},
    )


def test_a_trial_lies_between_two_readings_that_count_it_exactly(workplace: Any, toy: Any) -> None:
    handler, port = toy
    done = workplace.run("run", toy_workload(workplace, port), "--out", "out", LENIENT, env={"TOY_KEY": KEY})
    assert done.returncode == 0, done.stderr
    run = Run.open(workplace.folder / "out")
    [trial] = run.manifest.trials
    rows = [row for row in run.telemetry.to_pylist() if row["metric"] == "generated_tokens"]
    before = [row["value"] for row in rows if row["t_ns"] <= trial.start_ns]
    after = [row["value"] for row in rows if row["t_ns"] >= trial.end_ns]
    assert after[0] - before[-1] == 8  # the warm-up request is before
    assert handler.asked[0] == f"Bearer {KEY}"
    for path in (workplace.folder / "out").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_a_reading_that_fails_is_a_gap_with_its_reason(workplace: Any, toy: Any) -> None:
    handler, port = toy
    for faults, reason in (
        (["status"] * 9, "/metrics answers with HTTP status 503."),
        (["garbage"] * 9, "/metrics does not answer in Prometheus' text format."),
        (["hang up"] * 9, "/metrics does not answer (RemoteDisconnected)."),
    ):
        handler.faults[:] = faults
        out = faults[0].replace(" ", "-")
        done = workplace.run("run", toy_workload(workplace, port), "--out", out, LENIENT, env={"TOY_KEY": KEY})
        assert done.returncode == 0, done.stderr
        run = Run.open(workplace.folder / out)
        gaps = {row["gap"] for row in run.telemetry.to_pylist() if row["source"] == "metrics"}
        assert gaps == {reason}
        assert run.requests["status"].to_pylist() == ["ok"] * 9


def test_metrics_elsewhere_are_read_there_and_without_the_engine_s_key(workplace: Any, toy: Any) -> None:
    handler, port = toy
    where = f"http://127.0.0.1:{port}/metrics"
    workload = toy_workload(workplace, port, name="openai", metrics_url=where)
    done = workplace.run("run", workload, "--out", "out", LENIENT, env={"TOY_KEY": KEY})
    assert done.returncode == 0, done.stderr
    assert "generated_tokens" in Run.open(workplace.folder / "out").telemetry["metric"].to_pylist()
    assert set(handler.asked) == {None}


def test_the_processes_of_a_started_engine_are_read(workplace: Any) -> None:
    done = workplace.run("run", workplace.workload(measure={"telemetry_s": 0.05}), "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    rows = Run.open(workplace.folder / "out").telemetry.to_pylist()
    cpu_s = [row["value"] for row in rows if row["metric"] == "cpu_seconds"]
    assert cpu_s == sorted(cpu_s)
    assert cpu_s[-1] > 0
    assert all(row["value"] > 2**20 for row in rows if row["metric"] == "rss")


def test_telemetry_can_be_left_out(workplace: Any) -> None:
    done = workplace.run("run", workplace.workload(measure={"telemetry_s": 0}), "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    assert Run.open(workplace.folder / "out").telemetry.num_rows == 0


def test_a_killed_harness_leaves_its_readings_and_no_reader(
    workplace: Any, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    slow = {"simulated": {"settings": {"ttft_ms": 5, "itl_ms": 400}}}
    harness = workplace.start("run", workplace.workload(engines=[slow], measure={"telemetry_s": 0.05}), "--out", "out")
    journal = workplace.folder / "out" / "telemetry.jsonl"
    eventually(lambda: journal.is_file() and journal.read_bytes().count(b"cpu_seconds") > 3)
    readers = [
        child
        for child in psutil.Process(harness.pid).children(recursive=True)
        if "llmbench.harness.telemetry_process" in child.cmdline()
    ]
    assert len(readers) == 1
    harness.send_signal(signal.SIGKILL)
    harness.communicate()
    eventually(lambda: not readers[0].is_running() or readers[0].status() == psutil.STATUS_ZOMBIE)
    assert "cpu_seconds" in Run.open(workplace.folder / "out").telemetry["metric"].to_pylist()
    eventually(lambda: workplace.engine_processes() == [])
