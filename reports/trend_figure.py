"""A figure over runs as a picture: a dot and its interval for each run, what runs agree on, and where it changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from llmbench.reports.figure import Axis, Figure, Trace, label, rounded
from llmbench.reports.numbers import NO_BREAK, digits, percent
from llmbench.reports.plain_text import one_line
from llmbench.results.change_points import MIN_SEGMENT, ChangePoint
from llmbench.results.history import StoredRun
from llmbench.results.trend import Series
from llmbench.results.units import Floats

_MAX_TICKS = 4
_HEADROOM = 0.12
# Less than this share of the figure is not blown up to the whole height.
_LEAST_SPAN = 0.1


def trend_figure(series: Series, runs: Sequence[StoredRun]) -> Figure:
    """The series over `runs`, all those of its page: a run without the figure leaves its place empty."""
    spec, points = series.spec, series.points
    place = {run.run_id: number for number, run in enumerate(runs, 1)}
    at = np.array([place[point.run.run_id] for point in points], np.float64)
    values = np.array([point.value for point in points], np.float64)
    low, high = _range(series)
    return Figure(
        title=spec.title,
        reading=reading(series),
        alt=f"{spec.title} over {len(points)} runs, from {shown(series, points[0].value)} to "
        f"{shown(series, points[-1].value)}. {reading(series)}",
        traces=[_levels(series, at, values), _runs(series, at, values), _failed(at, values, high)],
        x=Axis("run", ticks=_ticks(runs), low=0.5, high=len(runs) + 0.5),
        y=Axis(spec.title, "" if spec.unit == "share" else spec.unit, low=low, high=high, share=spec.unit == "share"),
        shapes=[_line(float(at[index]), series.is_worse(change)) for index, change in series.changes.items()],
        annotations=[_mark(float(at[index]), series, index, change) for index, change in series.changes.items()],
    )


def reading(series: Series) -> str:
    """Where the figure changed, in words."""
    said = [change_in_words(series, index) for index in sorted(series.changes)]
    if said:
        return " ".join(f"{text[0].upper()}{text[1:]}." for text in said)
    if len(series.points) < 2 * MIN_SEGMENT:
        return f"{len(series.points)} runs: a change can be found from {2 * MIN_SEGMENT} on."
    return f"No change found in {len(series.points)} runs."


def change_in_words(series: Series, index: int) -> str:
    """`12.0 % higher, which is worse, from c0ffee1 of 2026-01-05 on (p = 0.001)`."""
    change = series.changes[index]
    size = f"{100 * abs(change.ratio - 1):.1f}{NO_BREAK}%"
    way = "higher" if change.ratio > 1 else "lower"
    word = "worse" if series.is_worse(change) else "better"
    return f"{size} {way}, which is {word}, from {name_of(series.points[index].run)} on ({chance(change.p)})"


def name_of(run: StoredRun) -> str:
    """`c0ffee1 of 2026-01-05`: its commit, where one is known, and its day."""
    return " of ".join(part for part in (commit_of(run), run.created_utc[:10]) if part)


def chance(p: float) -> str:
    return f"p{NO_BREAK}={NO_BREAK}{p:.2g}"


def shown(series: Series, value: float) -> str:
    """The value with its unit."""
    if series.spec.unit == "share":
        return percent(value) if math.isfinite(value) else digits(value)
    return f"{digits(value)} {series.spec.unit}"


def commit_of(run: StoredRun) -> str:
    """The first seven characters of the commit, empty where none is known."""
    return one_line((run.git_commit or "")[:7])


def _runs(series: Series, at: Floats, values: Floats) -> Trace:
    intervals = [series.interval(point) for point in series.points]
    above = [
        0.0 if found is None else found.high - point.value
        for found, point in zip(intervals, series.points, strict=True)
    ]
    below = [
        0.0 if found is None else point.value - found.low for found, point in zip(intervals, series.points, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(series.spec.title),
        "x": rounded(at),
        "y": rounded(values),
        "text": [
            label(" · ".join(part for part in (run.created_utc[:16].replace("T", " "), commit_of(run)) if part))
            for run in (point.run for point in series.points)
        ],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": rounded(np.array(above)),
            "arrayminus": rounded(np.array(below)),
            "color": "--c0",
            "thickness": 1.5,
            "width": 0,
        },
        "marker": {"color": "--c0", "size": 7},
        "hovertemplate": "%{y:.4~g}<br>%{text}<extra></extra>",
    }


def _levels(series: Series, at: Floats, values: Floats) -> Trace:
    """The median of each stretch without a change, as one line with gaps."""
    x: list[float] = []
    y: list[float] = []
    for first, after in pairwise([0, *sorted(series.changes), len(values)]):
        middle = float(np.median(values[first:after]))
        x += [at[first] - 0.5, at[after - 1] + 0.5, np.nan]
        y += [middle, middle, np.nan]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "median",
        "x": rounded(np.array(x)),
        "y": rounded(np.array(y)),
        "line": {"color": "--wait", "width": 5},
        "opacity": 0.5,
        "hoverinfo": "skip",
    }


def _failed(at: Floats, values: Floats, high: float) -> Trace:
    lost = at[np.isinf(values)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "too many requests failed",
        "x": rounded(lost),
        "y": rounded(np.full(len(lost), high)),
        "marker": {"color": "--bad", "size": 9, "symbol": "x"},
        "cliponaxis": False,
        "hovertemplate": "too many requests failed<extra></extra>",
    }


def _range(series: Series) -> tuple[float, float]:
    known = [(point.value, series.interval(point)) for point in series.points if math.isfinite(point.value)]
    if not known:
        return 0.0, 1.0
    low = min(value if found is None else found.low for value, found in known)
    high = max(value if found is None else found.high for value, found in known)
    span = max(high - low, _LEAST_SPAN * abs(float(np.median([value for value, _ in known]))), 1e-9)
    centre = (low + high) / 2
    return max(0.0, centre - span * (0.5 + _HEADROOM)), centre + span * (0.5 + _HEADROOM)


def _ticks(runs: Sequence[StoredRun]) -> list[tuple[float, str]]:
    # In the middle of even parts: a date at the very edge would be cut off.
    num = min(_MAX_TICKS, len(runs))
    chosen = [int((part + 0.5) * len(runs) / num) for part in range(num)]
    return [(float(index + 1), runs[index].created_utc[:10]) for index in chosen]


def _line(at: float, worse: bool) -> dict[str, Any]:
    return {
        "type": "line",
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "x0": at - 0.5,
        "x1": at - 0.5,
        "line": {"color": "--bad" if worse else "--good", "width": 1.5, "dash": "dash"},
    }


def _mark(at: float, series: Series, index: int, change: ChangePoint) -> dict[str, Any]:
    run = series.points[index].run
    return {
        "x": at - 0.5,
        "y": 1,
        "yref": "paper",
        "yanchor": "top",
        "xanchor": "right",
        "textangle": -90,
        "showarrow": False,
        "text": label(commit_of(run) or run.created_utc[:10]),
        "font": {"size": 11, "color": "--bad" if series.is_worse(change) else "--good"},
    }
