"""Where a figure changed for good, in a series of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llmbench.results.units import Floats, Ints

MIN_SEGMENT = 4
ALPHA = 0.01
_NUM_PERMUTATIONS = 999
_SEED = 0
# Only the newest runs are searched: arcs grow with the square of the series.
MAX_RUNS = 200


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """The figure is `ratio` times as large from the run at `index` on as it was before, up to the next change."""

    index: int
    ratio: float
    p: float


def change_points(values: Sequence[float], *, margin: float = 0.03, alpha: float = ALPHA) -> list[ChangePoint]:
    """The changes by more than `margin` in `values`, which are in order of time; positive, +inf for a failed run.

    The stretch of runs whose ranks differ most from those of all others is cut out, and each part is searched again, as
    long as a stretch that different happens in fewer than `alpha` of random orders: a permutation test takes the search
    for the best place into account. A cut whose two sides turn out alike is taken back. Ranks keep one wild run from
    looking like a change; a change needs MIN_SEGMENT runs on each side.
    Source: Olshen et al. 2004 (circular binary segmentation), on ranks.
    """
    skipped = max(0, len(values) - MAX_RUNS)
    logs = np.log(np.clip(np.asarray(values[skipped:], np.float64), 1e-300, 1e300))
    found = _settled(logs, _pruned(logs, _cuts(logs, 0, alpha), alpha))
    edges = [0, *sorted(found), len(logs)]
    if len(edges) == 2:
        return []
    levels = [float(np.median(logs[low:high])) for low, high in pairwise(edges)]
    changes = [
        ChangePoint(skipped + index, math.exp(min(700.0, max(-700.0, after - before))), found[index])
        for index, (before, after) in zip(edges[1:-1], pairwise(levels), strict=True)
    ]
    return [change for change in changes if abs(math.log(change.ratio)) > math.log1p(margin)]


def _cuts(logs: Floats, offset: int, alpha: float) -> dict[int, float]:
    """Where the series is cut, and the p-value of each."""
    arcs = _arcs(len(logs))
    centred = _centred_ranks(logs)
    if not arcs.size or not centred.any():
        return {}
    scores = _scores(centred[None, :], arcs)[0]
    best = arcs[int(scores.argmax())]
    generator = np.random.default_rng(_SEED)
    beaten = 0
    for num in np.diff(np.linspace(0, _NUM_PERMUTATIONS, 21).astype(int)):
        shuffled = generator.permuted(np.tile(centred, (num, 1)), axis=1)
        beaten += int((_scores(shuffled, arcs).max(axis=1) >= scores.max() - 1e-9).sum())
    p = (1 + beaten) / (1 + _NUM_PERMUTATIONS)
    if p > alpha:
        return {}
    edges = [0, *(int(edge) for edge in best if 0 < edge < len(logs)), len(logs)]
    found = {offset + edge: p for edge in edges[1:-1]}
    for low, high in pairwise(edges):
        found |= _cuts(logs[low:high], offset + low, alpha)
    return found


def _centred_ranks(logs: Floats) -> Floats:
    """Ranks less their mean; ties share theirs."""
    ordered = np.sort(logs)
    ranks = np.searchsorted(ordered, logs, "left") + np.searchsorted(ordered, logs, "right")
    return ranks - ranks.mean() if ranks.size else ranks.astype(np.float64)


def _arcs(num: int) -> Ints:
    """(first, last + 1) of every stretch that leaves no part shorter than MIN_SEGMENT, itself and all others included;
    one of each pair of complements, [arcs, 2]."""
    edges = [0, *range(MIN_SEGMENT, num - MIN_SEGMENT + 1)]
    ends = [*edges[1:], num]
    found = [(first, last) for first in edges for last in ends if MIN_SEGMENT <= last - first <= num - MIN_SEGMENT]
    return np.array([arc for arc in found if arc[0] == 0 or arc[1] < num], np.int64).reshape(-1, 2)


def _scores(centred: Floats, arcs: Ints) -> Floats:
    """|standardised sum| of each arc of each row: [rows, arcs]."""
    num = centred.shape[1]
    sums = np.concatenate([np.zeros((len(centred), 1)), centred.cumsum(axis=1)], axis=1)
    length = arcs[:, 1] - arcs[:, 0]
    scores: Floats = np.abs(sums[:, arcs[:, 1]] - sums[:, arcs[:, 0]]) / np.sqrt(length * (num - length))
    return scores


def _pruned(logs: Floats, cuts: dict[int, float], alpha: float) -> dict[int, float]:
    """`cuts` without those between parts that a rank test does not tell apart; the least sure goes first."""
    from scipy.stats import mannwhitneyu

    kept = dict(cuts)
    while kept:
        edges = [0, *sorted(kept), len(logs)]
        sides = zip(edges, edges[1:], edges[2:], strict=False)
        unsure = {
            cut: float(mannwhitneyu(logs[low:cut], logs[cut:high], method="asymptotic").pvalue)
            for low, cut, high in sides
        }
        worst = max(unsure, key=lambda cut: unsure[cut])
        # Four runs against four cannot be surer than 0.03 by ranks.
        if unsure[worst] <= max(alpha, 0.031):
            break
        del kept[worst]
    return kept


def _settled(logs: Floats, cuts: dict[int, float]) -> dict[int, float]:
    """Each cut at the best place between its neighbours: what lies beyond them pulled at it with ranks of its own."""
    places = sorted(cuts)
    moved = {}
    for cut, low, high in zip(places, [0, *places], [*places[1:], len(logs)], strict=False):
        arcs = np.array([(0, last) for last in range(MIN_SEGMENT, high - low - MIN_SEGMENT + 1)])
        scores = _scores(_centred_ranks(logs[low:high])[None, :], arcs)[0]
        moved[low + int(arcs[int(scores.argmax()), 1])] = cuts[cut]
    # Two cuts that moved towards each other must still leave a part between them.
    return moved if min(np.diff([0, *sorted(moved), len(logs)])) >= MIN_SEGMENT and len(moved) == len(cuts) else cuts
