"""Steps of the C++ kernels, recorded when their shape first occurs and replayed in one call.

What is recorded is the list of operators with the addresses they read and write (csrc/step_recorder.h). At small
batches the Python between sixty operators takes as long as the smallest of them; a replay has none. The addresses are
those of weights, of the KV cache and of StaticInputs, so a replay reads what stands there by then. A step's shape is
its numbers of tokens and of sequences: decodes are recorded, and verifications of drafts. A processor gains nothing
from padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmbench.reference_engine.spans import Spans
from llmbench.reference_engine.static_inputs import StaticInputs
from llmbench.reference_engine.step_batch import StepArrays, StepBatch

# Beyond some number of tokens the operators are so long that Python does not count.
MOST_REPLAYED_ROWS = 64


_RECORDED = {f"llmbench::{name}" for name in ("embedding", "linear", "attention", "stamp")}


class ReplayedSteps:
    """A program for each shape of step; `step` gives the logits of every row of a batch."""

    def __init__(self, step: Callable[[StepBatch], torch.Tensor], inputs: StaticInputs) -> None:
        self._step = step
        self._inputs = inputs
        self._recorder = torch.classes.llmbench.StepRecorder(inputs.num_rows)
        self._replay = self._recorder.run  # looking it up takes as long as calling it
        self._programs: dict[tuple[int, int], int] = {}

    def run(self, step: StepArrays, spans: Spans) -> torch.Tensor | None:
        """Logits [T, vocab_size] of the step's tokens, valid until the next call; None for more tokens than fit."""
        shape = len(step.token_ids), len(step.spans)
        if shape[0] > self._inputs.num_rows:
            return None
        with spans("prepare"):
            self._inputs.copy(step)
        program = self._programs.get(shape)
        if program is None:
            return self._record(shape)
        logits: torch.Tensor = self._replay(program)
        return logits

    @torch.inference_mode()
    def _record(self, shape: tuple[int, int]) -> torch.Tensor:
        self._recorder.begin()
        try:
            with _OnlyRecorded():  # type: ignore[no-untyped-call]
                logits = self._step(self._inputs.batch(*shape))
        finally:
            program = self._recorder.end()
        self._programs[shape] = program
        return logits


class _OnlyRecorded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises for an operator that is not recorded: a replay would leave its result as it was."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.name() not in _RECORDED and not func.is_view:
            raise RuntimeError(f"{func} is part of the step, and a recorded step would leave it out.")
        return func(*args, **(kwargs or {}))
