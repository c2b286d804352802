"""Delays of the instrument itself, any number of them in bounded memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from llmbench.results.manifest import LagManifest

# 8 MiB, and every p99 rests on 5,000 samples above it.
MAX_KEPT = 1 << 20
MAX_PENDING = 1 << 12


class LagSamples:
    """Keeps every delay up to `max_kept`, then every second, every fourth, …; the largest is never lost.

    The quantiles of `manifest` are delays that occurred.
    """

    def __init__(self, max_kept: int = MAX_KEPT) -> None:
        self._max_kept = max_kept
        self._kept: list[npt.NDArray[np.int64]] = []
        self._num_kept = 0
        self._num_seen = 0
        self._max_ns = 0
        self._stride = 1
        # Taken in by the thousand: numpy takes microseconds for a single one.
        self._pending = array("q")

    def add(self, lags_ns: Iterable[int]) -> None:
        self._pending.extend(lags_ns)
        if len(self._pending) >= MAX_PENDING:
            self._settle()

    def add_one(self, lag_ns: int) -> None:
        self._pending.append(lag_ns)
        if len(self._pending) >= MAX_PENDING:
            self._settle()

    def _settle(self) -> None:
        lags = np.array(self._pending, np.int64)
        del self._pending[:]
        if not lags.size:
            return
        self._max_ns = int(lags.max()) if self._num_seen == 0 else max(self._max_ns, int(lags.max()))
        kept = lags[-self._num_seen % self._stride :: self._stride]
        self._num_seen += lags.size
        self._kept.append(kept)
        self._num_kept += kept.size
        self._thin()

    @classmethod
    def merged(cls, parts: Sequence[LagSamples], max_kept: int = MAX_KEPT) -> LagSamples:
        """All of `parts` as if one had seen them, each delay with the same weight."""
        merged = cls(max_kept)
        for part in parts:
            part._settle()
        seen = [part for part in parts if part._num_seen]
        if not seen:
            return merged
        merged._stride = max(part._stride for part in seen)
        merged._kept = [np.concatenate(part._kept)[:: merged._stride // part._stride] for part in seen]
        merged._num_kept = sum(kept.size for kept in merged._kept)
        merged._num_seen = sum(part._num_seen for part in seen)
        merged._max_ns = max(part._max_ns for part in seen)
        merged._thin()
        return merged

    def manifest(self) -> LagManifest:
        """p50, p99 and the largest; None where nothing was added."""
        self._settle()
        if not self._num_seen:
            return LagManifest(n=0, p50_ns=None, p99_ns=None, max_ns=None)
        p50, p99 = np.quantile(np.concatenate(self._kept), (0.5, 0.99), method="inverted_cdf")
        return LagManifest(n=self._num_seen, p50_ns=int(p50), p99_ns=int(p99), max_ns=self._max_ns)

    def _thin(self) -> None:
        while self._num_kept > self._max_kept:
            thinned = np.concatenate(self._kept)[::2]
            self._kept, self._num_kept = [thinned], thinned.size
            self._stride *= 2
