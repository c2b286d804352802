"""How the stamped reads of each request follow each other: gaps, tokens per read, exact or thinned out.

Above EXACT_CHUNKS reads, samples are counted on a grid whose steps are GRID_STEP apart in ratio, apart for each unit
(round or block) of the measurement: a quantile is then within half a step of the exact one, the errors of figures stay
what they are, and memory no longer grows with the run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmbench.results.samples import Piece, Samples
from llmbench.results.units import Floats, Ints

EXACT_CHUNKS = 1_000_000
_STEPS_PER_OCTAVE = 1024
GRID_STEP = 2 ** (1 / _STEPS_PER_OCTAVE)  # 1.0007
_OCTAVES = 44  # from 1 ns; a gap beyond 2^44 ns, five hours, counts as that
_NUM_CELLS = _OCTAVES * _STEPS_PER_OCTAVE + 2  # the first cell holds what is below 1 ns


class Gaps(NamedTuple):
    """`ms` [n] with the index of the `request` each belongs to (when thinned, of one in the same unit), counted
    `weights` times; None for once."""

    ms: Floats
    request: Ints
    weights: Ints | None


class ChunkGaps(NamedTuple):
    """`by_chunk`: time from the content-carrying read before to this one. `by_token`: the same between reads with
    tokens, divided by the tokens of the later one and counted once for each. `burst`: tokens of each read with any, in
    place of ms."""

    by_chunk: Gaps
    by_token: Gaps
    burst: Gaps


def chunk_gaps(samples: Samples, exact_chunks: int = EXACT_CHUNKS) -> ChunkGaps:
    """The gaps of all requests, whether or not they failed in the end."""
    if samples.num_chunks <= exact_chunks:
        found = [_of_piece(piece) for piece in samples.pieces()]
        return ChunkGaps(*(_joined([each[place] for each in found]) for place in range(3)))
    grids = [_Grid(samples) for _ in range(3)]
    for piece in samples.pieces():
        for grid, gaps in zip(grids, _of_piece(piece), strict=True):
            grid.add(gaps)
    by_chunk, by_token, burst = (grid.gaps() for grid in grids)
    # Whole numbers of tokens lie further apart than the grid's steps.
    return ChunkGaps(by_chunk, by_token, burst._replace(ms=np.round(burst.ms)))


def _of_piece(piece: Piece) -> ChunkGaps:
    with_tokens = piece.tokens > 0
    ms, request, _ = _between(piece, with_tokens | (piece.chars > 0))
    token_ms, token_request, tokens = _between(piece, with_tokens)
    burst = piece.tokens[with_tokens].astype(np.float64)
    return ChunkGaps(
        Gaps(ms, request, None),
        Gaps(token_ms / tokens, token_request, tokens),
        Gaps(burst, piece.request[with_tokens], None),
    )


def _between(piece: Piece, chosen: np.ndarray) -> tuple[Floats, Ints, Ints]:
    request = piece.request[chosen]
    same = request[1:] == request[:-1]
    return np.diff(piece.ns[chosen])[same] / 1e6, request[1:][same], piece.tokens[chosen][1:][same]


def _joined(parts: list[Gaps]) -> Gaps:
    if not parts:
        return Gaps(np.empty(0), np.empty(0, np.int64), None)
    weights = [part.weights for part in parts if part.weights is not None]
    return Gaps(
        np.concatenate([part.ms for part in parts]),
        np.concatenate([part.request for part in parts]),
        np.concatenate(weights) if weights else None,
    )


class _Grid:
    """Counts of samples by unit and cell; a cell stands for the middle of its range."""

    def __init__(self, samples: Samples) -> None:
        units = samples.units
        self._unit_of = units.of_request
        # Any request of a unit will do to say which unit a sample is from.
        self._request_of = np.zeros(len(units), np.int64)
        self._request_of[units.of_request] = np.arange(len(samples))
        self._counts = np.zeros((len(units), _NUM_CELLS), np.int64)

    def add(self, gaps: Gaps) -> None:
        ns = np.clip(gaps.ms * 1e6, 0, 2.0**_OCTAVES)
        cell = np.where(ns < 1, 0, 1 + np.floor(np.log2(np.maximum(ns, 1)) * _STEPS_PER_OCTAVE)).astype(np.int64)
        flat = self._unit_of[gaps.request] * _NUM_CELLS + cell
        weights = None if gaps.weights is None else gaps.weights.astype(np.float64)
        added = np.bincount(flat, weights, self._counts.size).astype(np.int64)
        self._counts += added.reshape(self._counts.shape)

    def gaps(self) -> Gaps:
        unit, cell = np.nonzero(self._counts)
        middle_ns = np.where(cell == 0, 0.0, 2.0 ** ((cell - 0.5) / _STEPS_PER_OCTAVE))
        return Gaps(middle_ns / 1e6, self._request_of[unit], self._counts[unit, cell])
