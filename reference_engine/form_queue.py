"""Requests whose answer has a form that is still being compiled: they have arrived, but nobody schedules them yet."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from concurrent.futures import Future

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.guides import Guide, GuideMaker
from llmbench.reference_engine.outputs import StepOutput
from llmbench.reference_engine.sequence import Sequence

logger = logging.getLogger("llmbench.reference_engine")


class FormQueue:
    """Each leaves with its guide, or with the reason why it can have none."""

    def __init__(self, guides: GuideMaker) -> None:
        self._guides = guides
        self._waiting: dict[Sequence, Future[Guide]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence, grammar: str) -> None:
        self._waiting[sequence] = self._guides.compile(grammar)

    def remove(self, sequence: Sequence) -> bool:
        """Given up; False if it is not here. What nobody waits for any more is not compiled, unless that has begun."""
        compiling = self._waiting.pop(sequence, None)
        if compiling is None:
            return False
        if compiling not in self._waiting.values():
            compiling.cancel()
        return True

    def take_ready(self) -> tuple[list[Sequence], list[StepOutput]]:
        """Those that have their guide by now, and an output for each whose form cannot be kept."""
        ready: list[Sequence] = []
        refused: list[StepOutput] = []
        for sequence, compiling in list(self._waiting.items()):
            if compiling.done():
                del self._waiting[sequence]
                error = compiling.exception()
                if error is None:
                    sequence.guide = compiling.result().copy()
                    ready.append(sequence)
                    continue
                if not isinstance(error, RequestError):  # a library's, and no reason to answer nobody
                    logger.error("Request %s of the engine has a form that broke.", sequence.request_id, exc_info=error)
                    error = RequestError("The answer's form cannot be used: it breaks the library that reads it.")
                refused.append(StepOutput.of_error(sequence.request_id, str(error)))
        return ready, refused

    def wait(self, timeout_s: float) -> None:
        """Until one is ready, but no longer than this; as long as this if there is none."""
        if not self._waiting:
            time.sleep(timeout_s)
        concurrent.futures.wait(self._waiting.values(), timeout_s, concurrent.futures.FIRST_COMPLETED)

    def close(self) -> None:
        """Returns when nothing is compiled any more."""
        self._guides.close()


def broken(sequence: Sequence) -> StepOutput:
    """What is told, to the log too, of an answer that ends where nobody knows how its form goes on."""
    assert sequence.guide is not None
    # The token that was chosen there last is no part of the answer.
    error = f"The answer's form cannot be kept after {sequence.num_output_tokens - 1} tokens: {sequence.guide.failure}"
    logger.warning("Request %s of the engine is given up. %s", sequence.request_id, error)
    return StepOutput.of_error(sequence.request_id, error)
