"""A supervisor that ends an engine and everything it started when the harness ends: `python -m llmbench.harness.guard`.

The harness holds the other end of this process's stdin and never writes to it; its end of file, also after a `kill -9`,
is the order to stop. Only the standard library is imported, and no thread is started: it is alive all through a
measurement and must cost nothing. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

GRACE_S = 10.0
COULD_NOT_START = 127

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CHECK_S = 0.02
# A process in uninterruptible sleep does not die before its I/O ends; waiting for it longer helps nobody.
_KILL_S = 5.0


def main() -> int:
    """Run the engine until it ends or is to be stopped; the exit code is its own, or 128 + the signal that ended it.

    Reports on stdout, a line each: `started PID`, or `failed REASON`, and `ended CODE` (negative for a signal). The
    engine's own output goes to this process's stderr.
    """
    options = _options()
    # What the engine's tree orphans becomes a child of this process, so that nothing escapes by forking twice.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake_fd = _wake_on_signals()
    try:
        engine = subprocess.Popen(
            options.argv, stdin=subprocess.DEVNULL, stdout=2, stderr=2, start_new_session=True, preexec_fn=_die_with_us
        )
    except OSError as error:
        _report(f"failed {error.strerror or error}: {options.argv[0]}")
        return COULD_NOT_START
    _report(f"started {engine.pid}")
    code = _wait(engine, wake_fd)
    if code is None:
        with contextlib.suppress(ProcessLookupError):
            engine.terminate()
        code = _wait_until(engine, time.monotonic() + options.grace_s)
    kill_tree()
    if code is None:
        code = engine.wait()
    _report(f"ended {code}")
    return code if code >= 0 else 128 - code


def kill_tree() -> None:
    """Kill every descendant of this process, and those that appear meanwhile, until there is none."""
    give_up = time.monotonic() + _KILL_S
    while (found := descendants(os.getpid())) and time.monotonic() < give_up:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_CHECK_S)


def descendants(pid: int) -> list[int]:
    """The living processes below `pid`, by their parents in /proc; those that have ended and were not waited for are
    not among them."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                # The command's name, in parentheses, may hold anything; the state and the parent follow it.
                state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    children.setdefault(int(parent), []).append(int(folder.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _wait(engine: subprocess.Popen[bytes], wake_fd: int) -> int | None:
    """The engine's exit code once it ends by itself; None when it is to be stopped."""
    while engine.poll() is None:
        readable, _, _ = select.select([0, wake_fd], [], [])
        if 0 in readable and not os.read(0, 4096):
            return None
        if wake_fd in readable:
            received = os.read(wake_fd, 4096)
            if any(number != signal.SIGCHLD for number in received):
                return None
        _reap_orphans(engine.pid)
    return engine.returncode


def _wait_until(engine: subprocess.Popen[bytes], end_s: float) -> int | None:
    while engine.poll() is None:
        if time.monotonic() >= end_s:
            return None
        time.sleep(_CHECK_S)
    return engine.returncode


def _reap_orphans(engine_pid: int) -> None:
    """Take the exit codes of adopted orphans that have ended. That of the engine is `Popen`'s to take."""
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid == engine_pid:
                return
            os.waitpid(ended.si_pid, 0)


def _wake_on_signals() -> int:
    """A file descriptor on which the numbers of arriving signals can be read."""
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    return receiver.detach()


def _die_with_us() -> None:
    # In the engine, before it runs: should this process be killed, the engine's main process goes with it.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _report(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{line}\n".encode())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m llmbench.harness.guard")
    parser.add_argument("--grace-s", type=float, default=GRACE_S)
    parser.add_argument("argv", nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
