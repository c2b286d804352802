"""One load worker of a crew as a process of this host."""

from __future__ import annotations

import contextlib
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO

Inbox = queue.SimpleQueue[tuple[int, object]]

_END_S = 5.0


class LocalWorker:
    """A load worker of this host, from the moment it is made. Its replies come to `inbox` with its `number`, then None
    once it has ended."""

    def __init__(self, number: int, inbox: Inbox) -> None:
        self.number = number
        self.is_lost = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmbench.harness.load_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Not in the terminal's process group: Ctrl-C is the session's to handle.
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin: IO[bytes] = self.process.stdin
        self._listener = threading.Thread(target=self._listen, args=(self.process.stdout, inbox.put), daemon=True)
        self._listener.start()

    def tell(self, order: object) -> None:
        # A worker that is gone is noticed by who reads its replies.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(order, self._stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._stdin.flush()

    def ending(self) -> str:
        """How the process ended, in words."""
        self.is_lost = True
        code = self.process.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended early with code {code}"

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join()

    def _listen(self, pipe: IO[bytes], put: Callable[[tuple[int, object]], None]) -> None:
        with pipe, contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                put((self.number, pickle.load(pipe)))  # noqa: S301 (our own child's)
        put((self.number, None))
