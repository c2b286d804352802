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
        gaps = _of_piece(piece)
        cells = _cells(gaps.by_chunk.ms)
        one_by_one = gaps.by_token.ms is gaps.by_chunk.ms
        tokens = gaps.burst.ms.astype(np.int64)
        grids[0].add(cells, gaps.by_chunk)
        grids[1].add(cells if one_by_one else _cells(gaps.by_token.ms), gaps.by_token)
        grids[2].add(_cells(np.arange(tokens.max(initial=0) + 1))[tokens], gaps.burst)
    by_chunk, by_token, burst = (grid.gaps() for grid in grids)
    # Whole numbers of tokens lie further apart than the grid's steps.
    return ChunkGaps(by_chunk, by_token, burst._replace(ms=np.round(burst.ms)))


def _of_piece(piece: Piece) -> ChunkGaps:
    with_tokens = piece.tokens > 0
    with_content = with_tokens | (piece.chars > 0)
    counted = piece if with_tokens.all() else piece.where(with_tokens)
    shown = counted if with_content.sum() == len(counted.ns) else piece.where(with_content)
    token_ms, token_request, tokens = _between(counted)
    ms, request = (token_ms, token_request) if shown is counted else _between(shown)[:2]
    return ChunkGaps(
        Gaps(ms, request, None),
        Gaps(token_ms if (tokens == 1).all() else token_ms / tokens, token_request, tokens),
        Gaps(counted.tokens.astype(np.float64), counted.request, None),
    )


def _between(reads: Piece) -> tuple[Floats, Ints, Ints]:
    """The time in ms from each read to the next of the same request, that request, and the tokens of the later read."""
    later = 1 + np.flatnonzero(reads.request[1:] == reads.request[:-1])
    return (reads.ns[later] - reads.ns[later - 1]) / 1e6, reads.request[later], reads.tokens[later]


def _joined(parts: list[Gaps]) -> Gaps:
    if not parts:
        return Gaps(np.empty(0), np.empty(0, np.int64), None)
    weights = [part.weights for part in parts if part.weights is not None]
    return Gaps(
        np.concatenate([part.ms for part in parts]),
        np.concatenate([part.request for part in parts]),
        np.concatenate(weights) if weights else None,
    )


def _cells(ms: Floats | Ints) -> Ints:
    """The cell that each lies in."""
    # In place: on a large run, the passes over memory are what takes the time.
    steps = np.multiply(ms, 1e6)
    np.clip(steps, 1 / GRID_STEP, 2.0**_OCTAVES, out=steps)
    np.log2(steps, out=steps)
    steps *= _STEPS_PER_OCTAVE
    steps += 1
    return steps.astype(np.int64)


class _Grid:
    """Counts of samples by unit and cell; a cell stands for the middle of its range."""

    def __init__(self, samples: Samples) -> None:
        units = samples.units
        self._unit_of = units.of_request
        # Any request of a unit will do to say which unit a sample is from.
        self._request_of = np.zeros(len(units), np.int64)
        self._request_of[units.of_request] = np.arange(len(samples))
        self._counts = np.zeros((len(units), _NUM_CELLS), np.int64)

    def add(self, cells: Ints, gaps: Gaps) -> None:
        """Count gaps that lie in `cells`."""
        flat = self._unit_of[gaps.request] * _NUM_CELLS + cells
        weights = None if gaps.weights is None else gaps.weights.astype(np.float64)
        added = np.bincount(flat, weights, self._counts.size).astype(np.int64)
        self._counts += added.reshape(self._counts.shape)

    def gaps(self) -> Gaps:
        unit, cell = np.nonzero(self._counts)
        middle_ns = np.where(cell == 0, 0.0, 2.0 ** ((cell - 0.5) / _STEPS_PER_OCTAVE))
        return Gaps(middle_ns / 1e6, self._request_of[unit], self._counts[unit, cell])
