"""The load as it was asked for and as it was sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmbench.reports.figure import Axis, Figure, Trace, line, rounded, thinned
from llmbench.reports.material import Material
from llmbench.reports.numbers import count, digits
from llmbench.reports.section import Section, View, figures_by_level
from llmbench.reports.window_bands import READING, bands
from llmbench.results.manifest import ArrivalManifest, TrialManifest
from llmbench.results.samples import Floats, Samples
from llmbench.results.series import Arrivals, arrivals, cdf

_MAX_POINTS_IN_ALL = 12_000


@dataclass(frozen=True, slots=True)
class _Test:
    """One trial's sending, tested against the random process asked for: `p` is the smallest of its tests' chances.

    `due_p` is that of the due times, None in runs that did not keep it.
    """

    trial: TrialManifest
    found: ArrivalManifest
    due_p: float | None
    p: float


def _view(material: Material) -> View | None:
    view = figures_by_level(
        material,
        "First: requests sent by each moment, over the broad grey line of those that were due; where a curve leaves "
        "the grey, the load was not the one asked for. Second: how late each request was sent. In a closed loop a "
        "request is due when a slot is free. Where failed requests were sent again, every attempt counts, due when its "
        "wait was over.",
        lambda level: _figures(material, level),
    )
    tests = [
        _Test(trial, found, None if found.due is None else _smallest_p(found.due), _smallest_p(found))
        for trial in material.manifest.trials
        if (found := trial.arrivals) is not None
    ]
    return None if view is None else {**view, "tests": tests}


def _smallest_p(found: ArrivalManifest) -> float:
    return min(p for p in (found.rate_p, found.dispersion_p, found.ks_p) if p is not None)


def _figures(material: Material, level: str) -> list[Figure]:
    members = material.samples_at(level)
    figures = [_counts(material, [(samples, arrivals(samples)) for samples in members])]
    lag = _lag(material, members)
    return figures if lag is None else [*figures, lag]


def _counts(material: Material, found: list[tuple[Samples, Arrivals]]) -> Figure:
    points = _max_points(material)
    asked: list[Trace] = []
    for _, series in found:
        trace = line("due", 0, *_cumulative(series.asked_s, points), hover="%{y} due by %{x:.3f} s", step=True)
        asked.append(trace | {"line": {"color": "--wait", "width": 7, "shape": "hv"}, "opacity": 0.55})
    sent = [
        line(
            samples.engine,
            material.colour(samples.engine),
            *_cumulative(series.sent_s, points),
            step=True,
            hover="%{y} sent by %{x:.3f} s",
        )
        for samples, series in found
    ]
    said = "; ".join(
        f"{samples.engine} {count(len(series.sent_s))} of {count(len(series.asked_s))} sent"
        + (f", {count(series.num_again)} of them again" if series.num_again else "")
        for samples, series in found
    )
    unit = "attempts" if any(series.num_again for _, series in found) else "requests"
    shades = bands(next(iter(samples.windows.values())) for samples, _ in found)
    return Figure(
        title="Asked and achieved",
        reading=f"{unit.capitalize()} so far, first round." + (READING if shades else ""),
        alt=f"Cumulative arrivals of the first round: {said}.",
        # A closed loop asks each engine at its own pace; an open one asks all the same, and one line is enough.
        traces=[*(asked if len({tuple(rounded(series.asked_s, 3)) for _, series in found}) > 1 else asked[:1]), *sent],
        x=Axis("since the round's first request was due", "s"),
        y=Axis(unit),
        shapes=shades,
    )


def _lag(material: Material, members: list[Samples]) -> Figure | None:
    found = [(samples.engine, curve) for samples in members if (curve := cdf(samples.attempts, "send_lag"))]
    if not found:
        return None
    worst = "; ".join(f"{engine} at most {digits(float(curve.x[-1]))} ms" for engine, curve in found if curve.x.size)
    return Figure(
        title="Send lag",
        reading="Sent − due, all rounds: the instrument's own delay, the wait for a free slot, or connecting.",
        alt=f"Distribution of the send lag: {worst}.",
        traces=[
            line(
                engine,
                material.colour(engine),
                *thinned(curve.x, curve.y, _max_points(material)),
                step=True,
                hover="%{y:.1%} within %{x:.4~g} ms",
            )
            for engine, curve in found
        ],
        x=_lag_axis([curve.x for _, curve in found]),
        y=Axis("share of what was sent", low=0, high=1.02, share=True),
    )


def _lag_axis(lags_ms: list[Floats]) -> Axis:
    ends = np.concatenate(lags_ms)
    if not ends.size or ends.min() < 0:
        return Axis("send lag", "ms")
    # Below a microsecond nothing is late.
    return Axis("send lag", "ms", log=True, low=1e-3, high=max(1e-2, 1.3 * float(ends.max())))


def _cumulative(stamps: Floats, max_points: int) -> tuple[Floats, Floats]:
    return thinned(stamps, np.arange(1, len(stamps) + 1, dtype=np.float64), max_points)


def _max_points(material: Material) -> int:
    return max(100, _MAX_POINTS_IN_ALL // (3 * len(material.samples)))


ARRIVALS = Section("arrivals", "The load, asked and achieved", "Arrivals", _view, "arrivals.html")
