"""An engine starts, is waited for and is gone afterwards, with everything it started, however the harness ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from llmbench.engines.adapter import LaunchPlan
from llmbench.engines.wire import Endpoint
from llmbench.harness.errors import EngineStartError
from llmbench.harness.process import EngineProcess, free_port, log_tail

HEALTHY = """
    import http.server, subprocess, sys
    # A worker in a session of its own, as a launcher of several processes would have.
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("worker", worker.pid, flush=True)
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
DEAF = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
"""


def plan(source: str, port: int | None = None, **options: object) -> LaunchPlan:
    chosen = free_port() if port is None else port
    argv = (sys.executable, "-c", textwrap.dedent(source), str(chosen))
    return LaunchPlan(argv=argv, endpoint=Endpoint("127.0.0.1", chosen), **options)  # type: ignore[arg-type]


def eventually(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up, "it did not come to hold"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "engine.log"


@contextlib.contextmanager
def running(source: str, log: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess.start("toy", plan(source), log)
    try:
        yield engine
    finally:
        engine.stop()


def worker_pid(log: Path) -> int:
    eventually(lambda: bool(log_tail(log)))
    return int(log_tail(log)[0].split()[1])


def test_a_healthy_engine_becomes_ready_and_stop_takes_its_workers_along(log: Path) -> None:
    with running(HEALTHY, log) as engine:
        assert engine.wait_ready(30)
        worker = worker_pid(log)
        assert psutil.pid_exists(engine.pid)
        assert psutil.pid_exists(worker)
        assert engine.poll() is None
    assert is_gone(engine.pid)
    assert is_gone(worker)
    engine.stop()  # a second time does nothing


def test_the_tree_ends_with_a_harness_that_was_killed(log: Path) -> None:
    harness = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(f"""
                import time
                from pathlib import Path
                from llmbench.engines.adapter import LaunchPlan
                from llmbench.engines.wire import Endpoint
                from llmbench.harness.process import EngineProcess
                plan = LaunchPlan(argv={plan(HEALTHY).argv!r}, endpoint=Endpoint("127.0.0.1", {free_port()}))
                print(EngineProcess.start("toy", plan, Path({str(log)!r})).pid, flush=True)
                time.sleep(600)
            """),
        ],
        stdout=subprocess.PIPE,
    )
    assert harness.stdout is not None
    with harness.stdout as output:
        engine_pid = int(output.readline())
    worker = worker_pid(log)
    harness.kill()
    harness.wait()
    eventually(lambda: is_gone(engine_pid) and is_gone(worker))


def test_an_engine_goes_with_its_guard(log: Path) -> None:
    with running(HEALTHY, log) as engine:
        [guard] = [process for process in psutil.Process().children() if "llmbench.harness.guard" in process.cmdline()]
        worker = worker_pid(log)
        guard.kill()
        eventually(lambda: is_gone(engine.pid))
        os.kill(worker, signal.SIGKILL)  # nobody is left who could know of it


def test_an_engine_that_does_not_listen_is_killed(log: Path) -> None:
    guard = subprocess.Popen(
        [sys.executable, "-m", "llmbench.harness.guard", "--grace-s", "0.2", "--", *plan(DEAF).argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with guard:
        assert guard.stdin is not None
        assert guard.stdout is not None
        pid = int(guard.stdout.readline().split()[1])
        # Its handler is set when it sleeps: a signal that came before would just have ended it.
        eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_SLEEPING)
        time.sleep(0.2)
        guard.stdin.close()
        assert guard.stdout.readline() == b"ended -9\n"
        assert guard.wait() == 128 + signal.SIGKILL
    assert is_gone(pid)


def test_an_engine_that_dies_while_loading_shows_its_last_20_lines(log: Path) -> None:
    source = "import sys\nfor n in range(30): print('line', n)\nsys.exit(3)"
    with running(source, log) as engine, pytest.raises(EngineStartError) as caught:
        engine.wait_ready(30)
    message = str(caught.value)
    assert "toy ended with code 3 before it was ready" in message
    assert str(log) in message
    assert "line 29" in message
    assert "line 10" in message
    assert "line 9\n" not in message


def test_an_engine_that_is_killed_while_loading_says_by_which_signal(log: Path) -> None:
    source = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    with running(source, log) as engine, pytest.raises(EngineStartError, match="ended by signal 11"):
        engine.wait_ready(30)


def test_an_engine_that_takes_too_long_names_the_field(log: Path) -> None:
    with running(DEAF, log) as engine:
        with pytest.raises(EngineStartError, match=r"not ready after 0\.3 s .* startup_timeout_s"):
            engine.wait_ready(0.3)
        psutil.Process(engine.pid).kill()  # it would keep the guard's patience busy


def test_waiting_ends_when_it_is_told_to(log: Path) -> None:
    with running("import time; time.sleep(600)", log) as engine:
        assert engine.wait_ready(30, stopped=lambda: True) is False


def test_a_program_that_is_not_there(log: Path) -> None:
    missing = LaunchPlan(argv=("/no/such/engine",), endpoint=Endpoint("127.0.0.1", free_port()))
    with pytest.raises(EngineStartError, match="toy could not be started: No such file or directory: /no/such/engine"):
        EngineProcess.start("toy", missing, log)


def test_a_port_in_use_names_who_has_it(log: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(EngineStartError, match=rf"port is in use by process {os.getpid()} \("),
    ):
        EngineProcess.start("toy", plan(HEALTHY, port=taken.getsockname()[1]), log)


def test_a_server_that_is_not_ours_is_not_measured(log: Path) -> None:
    """Between the look at the port and the engine's own attempt another server has taken it."""
    port = free_port()
    engine = EngineProcess.start("toy", plan("import time; time.sleep(600)", port), log)
    stranger = subprocess.Popen([*plan(HEALTHY, port).argv], stdout=subprocess.PIPE)
    try:
        with pytest.raises(EngineStartError, match=rf"process {stranger.pid} .* instead of the engine"):
            engine.wait_ready(30)
    finally:
        engine.stop()
        for process in [*psutil.Process(stranger.pid).children(), stranger]:
            process.kill()
        stranger.communicate()


def test_the_environment_of_the_plan_reaches_the_engine(log: Path) -> None:
    source = "import os; print(os.environ['TOY'], flush=True); import time; time.sleep(600)"
    engine = EngineProcess.start("toy", plan(source, env={"TOY": "yes"}), log)
    eventually(lambda: log_tail(log) == ["yes"])
    engine.stop()


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert log_tail(path) == []
    path.write_bytes(b"x" * 100_000 + b"\nlast \xff line")
    assert log_tail(path, 1) == ["last \N{REPLACEMENT CHARACTER} line"]
