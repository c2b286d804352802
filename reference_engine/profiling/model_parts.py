"""The parts of the model in time: stamps between embedding, attention, MLP and head, in a step and in its replay."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from llmbench.reference_engine.models.decoder import Decoder
from llmbench.reference_engine.spans import Span


class ModelParts:
    """Has the model stamp the clock where a part begins, from now on; before any step of it is recorded.

    With the C++ kernels a stamp is an operator, which is recorded and replayed like the others; else it is Python's.
    """

    def __init__(self, model: Decoder, kernels_name: str) -> None:
        num_layers = len(model.layers)
        self._names = ["embed", *["attention", "MLP"] * num_layers, "head"]
        self._stamps = torch.zeros(len(self._names) + 1, dtype=torch.int64)
        self._stamp: Callable[[torch.Tensor, int], object] = _stamp
        if kernels_name == "cpp":
            self._stamp = torch.ops.llmbench.stamp.default
        self._trace(model, "embed", 0)
        for index, layer in enumerate(model.layers):
            self._trace(layer, "attention", 1 + 2 * index)
            self._trace(layer, "mlp", 2 + 2 * index)
        self._trace(model, "logits", 1 + 2 * num_layers, is_last=True)

    def _trace(self, owner: object, name: str, place: int, is_last: bool = False) -> None:
        """Replace a part by one that stamps first."""
        part = getattr(owner, name)

        def traced(*args: Any, **kwargs: Any) -> Any:
            self._stamp(self._stamps, place)
            result = part(*args, **kwargs)
            if is_last:
                self._stamp(self._stamps, place + 1)
            return result

        setattr(owner, name, traced)

    def take(self, until_ns: int) -> list[Span]:
        """The parts of the last step, which ended by then; one without the head's ends there, and has none."""
        stamps: list[int] = self._stamps.tolist()
        self._stamps.zero_()
        ends = [stamp or until_ns for stamp in stamps[1:]]
        return [Span(*part) for part in zip(self._names, stamps, ends, strict=False) if part[1]]


def _stamp(stamps: torch.Tensor, place: int) -> None:
    stamps[place] = time.perf_counter_ns()
