"""Forms are tried in a process of their own, which ends when one takes too long: `python -m
llmbench.reference_engine.form_trial`, a grammar a line as JSON, answered by its problem or null.

Why a process: llguidance takes for ever for some schemas, and nothing stops a thread that compiles. The schema
{"type": "integer", "multipleOf": 999983} is one; patterns under allOf and many patternProperties are others.
"""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import sys
import threading

from llmbench.reference_engine.grammar_problems import problem_at_the_beginning

# Of the processor; the largest forms that are taken need 0.2 s.
MAX_TRIAL_S = 1.0


class FormTrial:
    """Any thread may call it; one form is tried at a time. The process is started for the first and kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def problem(self, grammar: str) -> str | None:
        """Why an answer cannot have this form, as the end of a sentence; None for a form that it can have."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            try:
                self._process.stdin.write(json.dumps(grammar).encode() + b"\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = b""
            if line:
                problem: str | None = json.loads(line)
                return problem
            self._end()
            return f"it is too large to be read in {MAX_TRIAL_S:g} s of the processor's time."

    def close(self) -> None:
        """The next form starts a new process."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        self._end()
        module = "llmbench.reference_engine.form_trial"
        self._process = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _end(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
            self._process = None


the_trial = FormTrial()
atexit.register(the_trial.close)


def main() -> None:
    # As the engine's process: Ctrl-C and a service manager reach it too, and it ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        grammar = json.loads(line)
        # The signal that comes then has no handler: it ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, MAX_TRIAL_S)
        problem = problem_at_the_beginning(grammar)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(problem) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
