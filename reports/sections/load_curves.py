"""How engines bear more load: latency and goodput against the load offered, with the workload's limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmbench.reports.figure import DASHES, Axis, Figure, Trace, label, rounded, spans_decades
from llmbench.reports.load_level import OfferedLoad, offered_load
from llmbench.reports.material import Material
from llmbench.reports.numbers import digits
from llmbench.reports.section import Section, View
from llmbench.results.metrics import BY_NAME
from llmbench.results.objectives import slo_ms
from llmbench.results.samples import Floats
from llmbench.results.statistics import Interval
from llmbench.results.summary import SummaryRow

_Point = tuple[float | None, Interval | None]

_LATENCIES = (("ttft", 0.5), ("ttft", 0.99), ("itl", 0.99), ("tpot", 0.5), ("e2e", 0.5))
_TOTALS = ("goodput", "request_throughput", "output_throughput", "slo_attainment")
_FAR = 1.5
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "circle", "square", "diamond", "triangle-up")


@dataclass(frozen=True, slots=True)
class _Curve:
    """One engine's figure at each load, in rising order of load; NaN where there is none, +inf where it failed."""

    engine: str
    load: Floats
    value: Floats
    low: Floats
    high: Floats


def _view(material: Material) -> View | None:
    loads = {level: load for level in material.levels if (load := offered_load(level)) is not None}
    kinds = {load.kind for load in loads.values()}
    if len(loads) < 2 or len(kinds) != 1:
        return None
    axis = Axis("offered load", "requests/s") if kinds == {"rate"} else Axis("requests under way")
    figures = [_latency(material, loads, axis, name, share) for name, share in _LATENCIES]
    figures += [_total(material, loads, axis, name) for name in _TOTALS]
    found = [figure for figure in figures if figure is not None]
    return {"lead": _LEAD, "figures": found} if found else None


_LEAD = (
    "Each point is one load level, the whisker its 95 % interval. As long as a curve is flat, the engine keeps up; "
    "where it bends upwards, requests begin to queue, and that knee is the load it bears. A dashed line across is the "
    "workload's limit (SLO). On the picture of requests answered, an engine that keeps up stays on the grey diagonal."
)


def _latency(material: Material, loads: dict[str, OfferedLoad], axis: Axis, name: str, share: float) -> Figure | None:
    def point(row: SummaryRow) -> _Point:
        distribution = row.distribution(name)
        quantile = None if distribution is None else distribution.quantiles[share]
        return (None, None) if quantile is None else (quantile.value, quantile.interval)

    limit = slo_ms(material.samples[0]).get(f"{name}_ms")
    which = "median" if share == 0.5 else f"p{100 * share:g}"
    curves = _curves(material, loads, point)
    if curves is None:
        return None
    known = [curve.value for curve in curves]
    # A limit far above every curve would press them all to the floor.
    near = limit is not None and limit <= _FAR * max(
        float(values[np.isfinite(values)].max(initial=0)) for values in known
    )
    return _figure(
        material,
        curves,
        title=f"{BY_NAME[name].title} {which}",
        reading="Lower is better."
        + ("" if limit is None else f" Limit: {digits(limit)} ms{'' if near else ', above'}."),
        x=axis,
        y=Axis(f"{BY_NAME[name].title} {which}", "ms", log=spans_decades(known)),
        limit=limit if near else None,
    )


def _total(material: Material, loads: dict[str, OfferedLoad], axis: Axis, name: str) -> Figure | None:
    curves = _curves(material, loads, lambda row: (row.total(name), material.total_interval(row, name)))
    if curves is None:
        return None
    metric = BY_NAME[name]
    share = metric.unit == "share"
    title = metric.title[0].upper() + metric.title[1:]
    in_requests = metric.unit == "requests/s" and axis.unit == "requests/s"
    return _figure(
        material,
        curves,
        title=title,
        reading="Higher is better." + (" Grey: as many as were asked." if in_requests else ""),
        x=axis,
        y=Axis(
            title, "" if share else metric.unit, low=0 if share else None, high=1.05 if share else None, share=share
        ),
        diagonal=in_requests,
    )


def _curves(
    material: Material, loads: dict[str, OfferedLoad], point: Callable[[SummaryRow], _Point]
) -> list[_Curve] | None:
    curves = []
    for engine in material.engines:
        rows = [row for row in material.summary.rows if row.engine == engine and row.level in loads]
        rows.sort(key=lambda row: loads[row.level].amount)
        points = [point(row) for row in rows]
        curves.append(
            _Curve(
                engine,
                np.array([loads[row.level].amount for row in rows]),
                _floats([value for value, _ in points]),
                _floats([None if interval is None else interval.low for _, interval in points]),
                _floats([None if interval is None else interval.high for _, interval in points]),
            )
        )
    return curves if any(np.isfinite(curve.value).any() for curve in curves) else None


def _figure(
    material: Material,
    curves: list[_Curve],
    *,
    title: str,
    reading: str,
    x: Axis,
    y: Axis,
    limit: float | None = None,
    diagonal: bool = False,
) -> Figure:
    said = "; ".join(
        f"{curve.engine} from {digits(float(curve.value[0]))} to {digits(float(curve.value[-1]))}"
        for curve in curves
        if curve.value.size
    )
    traces = [_trace(curve, material.colour(curve.engine)) for curve in curves]
    if diagonal:
        loads = np.unique(np.concatenate([curve.load for curve in curves]))
        traces.insert(0, _diagonal(loads))
    return Figure(
        title=title,
        reading=reading,
        alt=f"{title} against the load: {said} {y.unit}.",
        traces=traces,
        x=x,
        y=y,
        shapes=[] if limit is None else [_limit(limit)],
    )


def _trace(curve: _Curve, colour: int) -> Trace:
    finite = np.isfinite(curve.value)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(curve.engine),
        "x": rounded(curve.load),
        "y": rounded(curve.value),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": rounded(_reach(curve.high, curve.value, finite)),
            "arrayminus": rounded(_reach(curve.value, curve.low, finite)),
            "color": f"--c{colour}",
            "thickness": 1.5,
            "width": 3,
        },
        "line": {"color": f"--c{colour}", "width": 2, "dash": DASHES[colour]},
        "marker": {"color": f"--c{colour}", "size": 8, "symbol": _SYMBOLS[colour]},
        "hovertemplate": "%{y:.4~g} at %{x:.4~g}",
    }


def _reach(above: Floats, below: Floats, finite: Any) -> Floats:
    with np.errstate(invalid="ignore"):
        reach = above - below
    return np.where(finite & np.isfinite(reach), np.maximum(reach, 0.0), 0.0)


def _diagonal(loads: Floats) -> Trace:
    ends = rounded(np.array([0.0, float(loads.max())]))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "asked",
        "x": ends,
        "y": ends,
        "line": {"color": "--wait", "width": 5},
        "opacity": 0.4,
        "hoverinfo": "skip",
    }


def _limit(limit: float) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": limit,
        "y1": limit,
        "line": {"color": "--ink", "width": 1.5, "dash": "dash"},
    }


def _floats(values: list[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


LOAD_CURVES = Section("load", "Under more load", "Load curves", _view, "load_curves.html")
