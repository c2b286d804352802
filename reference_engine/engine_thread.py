"""An engine that steps in a thread of its own, for a host process that calls it from many."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.outputs import EngineStats, StepOutput
from llmbench.reference_engine.sampling import SamplingParams

logger = logging.getLogger("llmbench.reference_engine")

# Takes each output of one request, or the reason why there will be none; true if no more are wanted.
OnOutput = Callable[[StepOutput | Exception], bool]

# How often the engine's state is told while it steps, and how soon once it has nothing to do: telling it delays a step.
TELL_EVERY_S = 0.5


class _Submitted(NamedTuple):
    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    on_output: OnOutput
    user: str | None


class EngineThread:
    """Owns `engine`: nobody else may call it any more.

    Each request's `on_output` is called in this thread, between two steps: what it does delays every request. So is
    `tell` with the engine's state, first before any request, then every TELL_EVERY_S while there is something new.
    """

    def __init__(self, engine: Engine, tell: Callable[[EngineStats], None] | None = None) -> None:
        self._engine = engine
        self._tell = tell
        self._told: EngineStats | None = None
        self._told_s = 0.0
        self._inbox: queue.SimpleQueue[_Submitted | None] = queue.SimpleQueue()
        self._waiting: dict[str, OnOutput] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        on_output: OnOutput,
        user: str | None = None,
    ) -> None:
        """Queue a request; `request_id` is one that no other running request has. RequestError goes to `on_output`."""
        self._inbox.put(_Submitted(request_id, prompt_token_ids, params, on_output, user))

    def stop(self) -> None:
        """Returns when the step under way is done; requests that are not end with an exception."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        end: Exception = RuntimeError("The engine was stopped.")
        try:
            self._tell_if_new()
            while self._take_in():
                for output in self._engine.step():
                    self._deliver(output)
                if time.monotonic() - self._told_s >= TELL_EVERY_S:
                    self._tell_if_new()
        except Exception as error:
            logger.exception("The engine died.")
            end = RuntimeError(f"The engine died: {error!r}")
            self._fail(end)
            while (submitted := self._inbox.get()) is not None:
                submitted.on_output(end)
        else:
            self._fail(end)
        finally:
            self._engine.close()

    def _fail(self, error: Exception) -> None:
        while self._waiting:
            self._waiting.popitem()[1](error)

    def _take_in(self) -> bool:
        """False when told to stop; waits while there is nothing to compute."""
        while not self._inbox.empty() or not self._engine.has_work():
            submitted = self._next()
            if submitted is None:
                return False
            try:
                self._engine.add_request(
                    submitted.request_id, submitted.prompt_token_ids, submitted.params, user=submitted.user
                )
            except RequestError as error:
                submitted.on_output(error)
            else:
                self._waiting[submitted.request_id] = submitted.on_output
        return True

    def _next(self) -> _Submitted | None:
        if self._tell is not None and self._inbox.empty():
            try:
                return self._inbox.get(timeout=TELL_EVERY_S)
            except queue.Empty:
                self._tell_if_new()
        return self._inbox.get()

    def _tell_if_new(self) -> None:
        self._told_s = time.monotonic()
        if self._tell is None or (stats := self._engine.stats()) == self._told:
            return
        self._told = stats
        try:
            self._tell(stats)
        except Exception:
            # A metric that cannot be told is no reason to answer nobody.
            logger.exception("The engine's state is not told any more.")
            self._tell = None

    def _deliver(self, output: StepOutput) -> None:
        try:
            told = output if output.error is None else RequestError(output.error)
            enough = self._waiting[output.request_id](told)
        except Exception:
            logger.exception("Request %s is given up: its outputs cannot be delivered.", output.request_id)
            enough = True
        if output.finish_reason is not None:
            del self._waiting[output.request_id]
        elif enough:
            self._engine.abort(output.request_id)
            del self._waiting[output.request_id]
