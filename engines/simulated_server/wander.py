"""Slow noise, as of a machine that is busier at one moment than at another: requests that come close are alike."""

from __future__ import annotations

import math
import random


class Wander:
    """A stationary Gaussian process of mean 0 and deviation 1, asked at ascending times.

    Values `memory_s` apart are correlated by 1/e: a first-order autoregression over unequal steps (Ornstein-Uhlenbeck).
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"wander/{seed}")
        self._value = self._random.gauss(0, 1)
        self._at_ns: int | None = None

    def at(self, t_ns: int, memory_s: float) -> float:
        """The value at `t_ns`; with a memory of 0 a new one for each call."""
        if self._at_ns is not None:
            kept = math.exp(-max(0, t_ns - self._at_ns) / 1e9 / memory_s) if memory_s > 0 else 0.0
            self._value = kept * self._value + math.sqrt(1 - kept**2) * self._random.gauss(0, 1)
        self._at_ns = t_ns
        return self._value
