"""An engine's process tree: started, waited for, and gone afterwards whatever happens to the harness."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psutil

from llmbench.engines.adapter import LaunchPlan
from llmbench.engines.wire import Endpoint
from llmbench.harness.errors import EngineStartError
from llmbench.harness.guard import GRACE_S

NUM_TAIL_LINES = 20
# Beyond the guard's own patience: it first asks the engine to end, then kills.
_STOP_S = GRACE_S + 10.0
_TAIL_BYTES = 64 * 1024
_POLL_S = 0.05
_PROBE_S = 2.0


def free_port() -> int:
    """A loopback port on which nobody listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class EngineProcess:
    """One engine under `llmbench.harness.guard`. `pid` is the engine's own; `log_path` holds all that it printed."""

    def __init__(self, label: str, plan: LaunchPlan, log_path: Path, guard: subprocess.Popen[bytes], pid: int) -> None:
        self.label = label
        self.plan = plan
        self.log_path = log_path
        self.pid = pid
        self._guard = guard

    @classmethod
    def start(cls, label: str, plan: LaunchPlan, log_path: Path) -> EngineProcess:
        """Start the engine; its output is appended to `log_path`.

        Raises EngineStartError when somebody listens on its port already, or its program cannot be run.
        """
        _refuse_taken_port(label, plan.endpoint)
        with log_path.open("ab") as log:
            guard = subprocess.Popen(
                [sys.executable, "-m", "llmbench.harness.guard", "--", *plan.argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **plan.env},
                # Out of reach of the terminal's Ctrl-C: the session decides when an engine ends.
                start_new_session=True,
            )
        word, _, rest = _reports(guard).readline().decode(errors="replace").strip().partition(" ")
        if word != "started":
            guard.communicate()
            said = rest or f"its guard ended with code {guard.returncode}"
            raise EngineStartError(f"{label} could not be started: {said}.", _shown_tail(log_path))
        return cls(label, plan, log_path, guard, int(rest))

    def wait_ready(self, timeout_s: float | None = None, stopped: Callable[[], bool] = lambda: False) -> bool:
        """True once the engine answers its readiness check, False as soon as `stopped`.

        Raises EngineStartError, with the end of its log, when it ends before or takes longer than `timeout_s` (default:
        the launch plan's), or when another server answers in its place.
        """
        limit_s = self.plan.startup_timeout_s if timeout_s is None else timeout_s
        give_up = time.monotonic() + limit_s
        while not stopped():
            if self.poll() is not None:
                raise EngineStartError(f"{self.label} {self.ending()} before it was ready.", _shown_tail(self.log_path))
            if _answers(self.plan):
                self._refuse_stranger()
                return True
            if time.monotonic() >= give_up:
                raise EngineStartError(
                    f"{self.label} was not ready after {limit_s:g} s ({self.plan.endpoint.url}{self.plan.ready_path} "
                    "did not answer 200); startup_timeout_s gives it longer.",
                    _shown_tail(self.log_path),
                )
            time.sleep(_POLL_S)
        return False

    def poll(self) -> int | None:
        """The engine's exit code once it has ended, 128 + the signal where one ended it; None while it runs."""
        code = self._guard.poll()
        if code is None and _has_ended(self.pid):
            code = self._guard.wait()  # it is about to say how, once it has killed what the engine left behind
        return code

    def ending(self) -> str:
        """How the engine ended, in words. Only after `poll` gave a code."""
        code = self.poll()
        assert code is not None
        return f"was ended by signal {code - 128}" if code > 128 else f"ended with code {code}"

    def cpus(self) -> tuple[int, ...] | None:
        """The logical CPUs that the engine may run on; None where the platform does not tell."""
        try:
            return tuple(psutil.Process(self.pid).cpu_affinity() or ())
        except (AttributeError, psutil.Error):
            return None

    def stop(self) -> None:
        """End the engine and all it started: asked first, killed if it does not listen. Does nothing a second time."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        try:
            self._guard.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            for process in [*self._tree(), psutil.Process(self._guard.pid)]:
                process.kill()
            self._guard.wait()
        _reports(self._guard).close()

    def _tree(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._guard.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _refuse_stranger(self) -> None:
        """Another program can take a port between our look at it and the engine's own attempt to listen on it."""
        listener = _listener(self.plan.endpoint.port)
        if listener is not None and listener not in {process.pid for process in self._tree()}:
            raise EngineStartError(
                f"{self.label}: {_described(listener)} answers on {self.plan.endpoint.url} instead of the engine that "
                "was started there.",
                _shown_tail(self.log_path),
            )


def log_tail(path: Path, num_lines: int = NUM_TAIL_LINES) -> list[str]:
    """The last lines of a log, at most `num_lines`; empty for a log that is empty or not there."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-num_lines:]
    except OSError:
        return []


def _shown_tail(path: Path) -> str:
    lines = log_tail(path)
    if not lines:
        return f" It printed nothing ({path})."
    shown = "\n".join(f"    {line}" for line in lines)
    return f" The last lines of its log, {path}:\n{shown}"


def _refuse_taken_port(label: str, endpoint: Endpoint) -> None:
    with socket.socket(socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET) as probe:
        # As servers do: a port whose old connections are still in TIME_WAIT can be listened on.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((endpoint.host, endpoint.port))
        except OSError as error:
            listener = _listener(endpoint.port)
            who = f"in use by {_described(listener)}" if listener is not None else f"taken ({error.strerror})"
            raise EngineStartError(
                f"{label} cannot be started on {endpoint.url}: the port is {who}. Stop that server, give another port, "
                "or measure the server that runs there with `url`."
            ) from None


def _listener(port: int) -> int | None:
    """The pid of the process that listens on a TCP port, where this user may know it."""
    try:
        found = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        ]
    except (psutil.Error, OSError):
        return None
    return next((pid for pid in found if pid is not None), None)


def _described(pid: int) -> str:
    try:
        return f"process {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:
        return f"process {pid}"


def _has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _answers(plan: LaunchPlan) -> bool:
    port = plan.endpoint.port if plan.ready_port is None else plan.ready_port
    connection = http.client.HTTPConnection(plan.endpoint.host, port, timeout=_PROBE_S)
    try:
        connection.request("GET", plan.endpoint.base_path + plan.ready_path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _reports(guard: subprocess.Popen[bytes]) -> IO[bytes]:
    assert guard.stdout is not None
    return guard.stdout
