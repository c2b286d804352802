"""What an engine, its processes and its devices said of themselves during the measured rounds of one load level.

Counters are read right before and after a round, so what they rose by in it is exact; how that is spread over the time
within the round is as fine as the readings were (`measure.telemetry_s`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from llmbench.results.manifest import TrialManifest
from llmbench.results.run import Run
from llmbench.results.samples import Samples
from llmbench.results.units import Floats

NS_PER_S = 1e9
_MAX_BINS = 100


class Track(NamedTuple):
    """One quantity of one device or process tree, in time order; `t_s` counts from the round's first due request."""

    t_s: Floats
    values: Floats


class Between(NamedTuple):
    """Bounds of a quantile that a histogram gives, in s: it lies above `low` and is at most `high`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Window:
    """One measured round: from its first due request to its last answer, in ns, and `before` and `after` it the stretch
    in which no other round was measured."""

    start_ns: float
    end_ns: float
    before_ns: float
    after_ns: float


@dataclass(frozen=True, eq=False)
class ServerSide:
    """The telemetry of one engine at one level, of whole rounds whatever part of them is measured.

    Where a quantity was never read, every answer about it is None. Of several devices, amounts are summed and shares
    averaged.
    """

    samples: Samples
    windows: tuple[Window, ...]

    def mean(self, metric: str, edges: Floats, *, share: bool = False) -> Floats | None:
        """A gauge in the bins between `edges`: the mean of what was read there, NaN where nothing was."""
        devices = self._by_device(metric)
        if not devices:
            return None
        means = []
        for readings in devices:
            tracks = [_cut(readings, window) for window in self.windows]
            t_s, values = (np.concatenate([track[part] for track in tracks]) for part in (0, 1))
            num, _ = np.histogram(t_s, edges)
            total, _ = np.histogram(t_s, edges, weights=values)
            means.append(np.divide(total, num, out=np.full(len(num), np.nan), where=num > 0))
        joined: Floats = np.mean(means, axis=0) if share else np.sum(means, axis=0)
        return joined if np.isfinite(joined).any() else None

    def rate(self, metric: str, edges: Floats) -> Floats | None:
        """By how much a counter rose per second in the bins between `edges`, averaged over rounds; NaN where it was
        not read. Between two readings it is taken to rise evenly."""
        risen, seconds = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
        for readings in self._by_device(metric):
            for track in self._counted(readings):
                risen += np.diff(np.interp(edges, track.t_s, track.values))
        for track in self._framing(metric):
            seconds += np.diff(np.clip(edges, track.t_s[0], track.t_s[-1]))
        if not seconds.any():
            return None
        rates: Floats = np.divide(risen, seconds, out=np.full(len(seconds), np.nan), where=seconds > 0)
        return rates

    def share(self, part: str, whole: str, edges: Floats) -> Floats | None:
        """What one counter rose by as a share of what another did; NaN in bins in which the whole did not rise."""
        above, below = self.rate(part, edges), self.rate(whole, edges)
        if above is None or below is None:
            return None
        shares: Floats = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
        return shares if np.isfinite(shares).any() else None

    def increase(self, metric: str) -> float | None:
        """By how much a counter rose in all rounds together; None unless each of them was framed by two readings."""
        increases = [self._increase(readings) for readings in self._by_device(metric)]
        known = [each for each in increases if each is not None]
        return sum(known) if known and len(known) == len(increases) else None

    def peak(self, metric: str) -> float | None:
        """The greatest value of a gauge that was read in any round; of several devices the sum of each one's."""
        peaks = [
            max(values)
            for readings in self._by_device(metric)
            if (values := [value for window in self.windows for value in _cut(readings, window).values.tolist()])
        ]
        return sum(peaks) if peaks else None

    def histogram_mean(self, metric: str) -> float | None:
        """The mean of a histogram's observations in s: their sum's increase by their number's."""
        total, num = self.increase(f"{metric}_sum"), self.increase(f"{metric}_count")
        return total / num if total is not None and num else None

    def histogram_median(self, metric: str) -> Between | None:
        """The bucket that the median of a histogram's observations lies in."""
        found = [
            (le, self._increase_below(metric, le))
            for name, le in sorted(self._told, key=lambda key: (key[0], key[1] or 0.0))
            if name == f"{metric}_bucket" and le is not None
        ]
        if not found or any(below is None for _, below in found) or not found[-1][1]:
            return None
        half, low = found[-1][1] / 2, 0.0
        for le, below in found:
            if below is not None and below >= half:
                return Between(low, le)
            low = le
        return None

    @property
    def seconds(self) -> float:
        """The length of all rounds together, in s."""
        return sum(window.end_ns - window.start_ns for window in self.windows) / NS_PER_S

    @property
    def sources(self) -> frozenset[str]:
        """Which sources were read at all: metrics, process, gpu, cpu."""
        return _telemetry(self.samples.run).sources.get(self.samples.engine, frozenset())

    @property
    def gaps(self) -> Mapping[str, int]:
        """How often nothing could be read in the measured rounds, by the reason."""
        found: dict[str, int] = defaultdict(int)
        for t_ns, gap in _telemetry(self.samples.run).gaps.get(self.samples.engine, ()):
            if any(window.before_ns <= t_ns <= window.after_ns for window in self.windows):
                found[gap] += 1
        return found

    @property
    def _told(self) -> Mapping[tuple[str, float | None], Sequence[Track]]:
        return _telemetry(self.samples.run).tracks.get(self.samples.engine, {})

    def _by_device(self, metric: str) -> Sequence[Track]:
        return self._told.get((metric, None), ())

    def _increase_below(self, metric: str, le: float) -> float | None:
        [readings] = self._told[f"{metric}_bucket", le]
        return self._increase(readings)

    def _increase(self, readings: Track) -> float | None:
        tracks = self._counted(readings)
        framed = [
            track
            for window, track in zip(self.windows, tracks, strict=False)
            if track.t_s[0] <= 0 and track.t_s[-1] >= (window.end_ns - window.start_ns) / NS_PER_S
        ]
        return float(sum(track.values[-1] for track in framed)) if len(framed) == len(self.windows) else None

    def _framing(self, metric: str) -> Iterator[Track]:
        # One device's readings stand for the time that all of them were read in.
        for readings in self._by_device(metric)[:1]:
            yield from self._counted(readings)

    def _counted(self, readings: Track) -> list[Track]:
        """The counter in each round, from the last reading before it to the first one after it; without resets."""
        tracks = []
        for window in self.windows:
            t_ns = readings.t_s
            first = max(np.searchsorted(t_ns, window.before_ns), np.searchsorted(t_ns, window.start_ns, "right") - 1)
            last = min(np.searchsorted(t_ns, window.after_ns, "right") - 1, np.searchsorted(t_ns, window.end_ns))
            if last <= first:
                continue
            values = readings.values[first : last + 1]
            steps = np.diff(values)
            # An engine that was started again counts from 0.
            steps = np.where(steps < 0, values[1:], steps)
            t_s = (t_ns[first : last + 1] - window.start_ns) / NS_PER_S
            tracks.append(Track(t_s, np.concatenate([[0.0], np.cumsum(steps)])))
        return tracks


def server_side(samples: Samples) -> ServerSide:
    """What was read beside the answers that `samples` holds."""
    return ServerSide(samples, tuple(_windows(samples.whole)))


def bin_edges(members: Sequence[Samples]) -> Floats:
    """Edges of equal bins, in s, over the longest round of `members`: at most _MAX_BINS, and none narrower than the
    time between two readings, but for a round that is shorter itself."""
    lengths_s = [
        (window.end_ns - window.start_ns) / NS_PER_S for samples in members for window in _windows(samples.whole)
    ]
    longest_s = max(lengths_s, default=1.0)
    between_s = interval_s(members[0].run) or longest_s
    return np.linspace(0, longest_s, 1 + int(min(_MAX_BINS, max(1, longest_s / between_s))))


def interval_s(run: Run) -> float:
    """How often engines and devices were read, in s; 0 for never."""
    measure = run.manifest.workload.get("measure")
    told = measure.get("telemetry_s") if isinstance(measure, dict) else None
    return float(told) if isinstance(told, int | float) else 1.0


def _windows(samples: Samples) -> Iterator[Window]:
    due_ns, end_ns = samples.ns("due_ns"), samples.ns("end_ns")
    trials = [trial for trial in samples.run.manifest.trials if trial.engine == samples.engine]
    for number in np.unique(samples.round).tolist():
        members = samples.round == number
        ends_ns = end_ns[members & ~np.isnan(end_ns)]
        if ends_ns.size:
            start, end = float(due_ns[members].min()), float(ends_ns.max())
            yield Window(start, end, *_alone(trials, samples.origin_ns, start, end))


def _alone(trials: Sequence[TrialManifest], origin_ns: int, start_ns: float, end_ns: float) -> tuple[float, float]:
    earlier = [trial.end_ns - origin_ns for trial in trials if trial.end_ns is not None]
    later = [trial.start_ns - origin_ns for trial in trials]
    return (
        max((float(each) for each in earlier if each <= start_ns), default=-np.inf),
        min((float(each) for each in later if each >= end_ns), default=np.inf),
    )


def _cut(readings: Track, window: Window) -> Track:
    inside = (readings.t_s >= window.start_ns) & (readings.t_s <= window.end_ns)
    return Track((readings.t_s[inside] - window.start_ns) / NS_PER_S, readings.values[inside])


class _Telemetry(NamedTuple):
    """The run's telemetry by engine: tracks of each metric (`t_s` in ns since the origin here), with the bucket's bound
    where it is one, one track for each device; gaps with their times; sources that gave values."""

    tracks: Mapping[str, Mapping[tuple[str, float | None], Sequence[Track]]]
    gaps: Mapping[str, Sequence[tuple[float, str]]]
    sources: Mapping[str, frozenset[str]]


@lru_cache(maxsize=4)
def _telemetry(run: Run) -> _Telemetry:
    origin_ns = run.manifest.clock.origin_ns
    told: dict[str, dict[tuple[str, float | None], dict[str, list[tuple[float, float]]]]] = {}
    gaps: dict[str, list[tuple[float, str]]] = defaultdict(list)
    sources: dict[str, set[str]] = defaultdict(set)
    names = ("t_ns", "engine", "source", "instance", "metric", "le", "value", "gap")
    for t, engine, source, instance, metric, le, value, gap in zip(
        *(run.telemetry.column(name).to_pylist() for name in names), strict=True
    ):
        if metric is None:
            gaps[engine].append((float(t - origin_ns), gap or "unknown"))
            continue
        sources[engine].add(source)
        devices = told.setdefault(engine, {}).setdefault((metric, le), defaultdict(list))
        devices[f"{source} {instance}"].append((float(t - origin_ns), value))
    tracks = {
        engine: {
            key: [Track(*np.array(sorted(readings)).T) for readings in devices.values()]
            for key, devices in metrics.items()
        }
        for engine, metrics in told.items()
    }
    return _Telemetry(tracks, gaps, {engine: frozenset(found) for engine, found in sources.items()})
