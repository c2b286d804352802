"""A plotly figure as data: traces, axes and the words around it. Colours are names that report.js looks up in the CSS,
so that pictures follow the reader's light or dark theme."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmbench.reports.plain_text import one_line
from llmbench.results.samples import Floats

Trace = dict[str, Any]

# Beside its colour each engine has a stroke of its own, for readers who do not see the colours and for grey prints.
DASHES = (
    "solid",
    "14px,3px",
    "5px,3px",
    "14px,3px,3px,3px",
    "24px,4px",
    "2px,2px",
    "9px,3px",
    "14px,3px,3px,3px,3px,3px",
)


@dataclass(frozen=True, slots=True)
class Axis:
    """`unit` is shown with the title. `low` and `high` fix the range, None leaves it to the data. `ticks` are places on
    the axis and what stands there in place of a number."""

    title: str
    unit: str = ""
    log: bool = False
    low: float | None = None
    high: float | None = None
    share: bool = False
    hidden: bool = False
    ticks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """`reading` says what is shown and how to read it; `alt` says in words what a sighted reader sees."""

    title: str
    reading: str
    alt: str
    traces: Sequence[Trace]
    x: Axis
    y: Axis
    height: int = 280
    wide: bool = False
    shapes: Sequence[dict[str, Any]] = field(default=())
    annotations: Sequence[dict[str, Any]] = field(default=())

    @property
    def spec(self) -> dict[str, Any]:
        """What report.js draws."""
        return {
            "traces": list(self.traces),
            "layout": {
                "xaxis": _axis(self.x),
                "yaxis": _axis(self.y),
                "height": self.height,
                "shapes": list(self.shapes),
                "annotations": list(self.annotations),
                "barmode": "overlay",
            },
        }


def line(name: str, colour: int, x: Floats, y: Floats, *, hover: str, step: bool = False, **more: Any) -> Trace:
    """One engine's curve. `hover` is a plotly template such as `%{x:.1f} ms`."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label(name),
        "x": rounded(x),
        "y": rounded(y),
        "line": {"color": f"--c{colour}", "width": 2, "dash": DASHES[colour], "shape": "hv" if step else "linear"},
        "hovertemplate": hover,
        **more,
    }


def label(text: str) -> str:
    """Any text as plotly shows it: it would take `<b>` or `<a>` in a name for markup."""
    return html.escape(one_line(text), quote=False)


def rounded(values: Floats, significant: int = 5) -> list[float | None]:
    """`values` with as many digits as a screen can show; what is not finite becomes a gap."""
    finite = np.isfinite(values)
    shown = np.where(finite, values, 0.0)
    size = np.floor(np.log10(np.abs(shown), out=np.zeros_like(shown), where=shown != 0)).astype(int)
    decimals = np.clip(significant - 1 - size, 0, 9)
    return [
        round(value, places) if known else None
        for value, places, known in zip(shown.tolist(), decimals.tolist(), finite.tolist(), strict=True)
    ]


def thinned(x: Floats, y: Floats, max_points: int) -> tuple[Floats, Floats]:
    """At most `max_points` of a curve: evenly spread, with half of them on its last tenth, where the tail is."""
    if len(x) <= max_points:
        return x, y
    tail = len(x) - max(1, len(x) // 10)
    body = np.linspace(0, tail, max_points - max_points // 2)
    kept = np.unique(np.concatenate([body, np.linspace(tail, len(x) - 1, max_points // 2)]).astype(np.int64))
    return x[kept], y[kept]


def spans_decades(curves: Sequence[Floats], factor: float = 20.0) -> bool:
    """Whether positive values lie so far apart that a linear axis would press most of them to one side."""
    finite = np.concatenate([curve[np.isfinite(curve)] for curve in curves]) if curves else np.empty(0)
    return bool(finite.size) and bool(finite.min() > 0) and bool(finite.max() / finite.min() > factor)


def _axis(axis: Axis) -> dict[str, Any]:
    title = f"{axis.title} ({axis.unit})" if axis.unit else axis.title
    layout: dict[str, Any] = {"title": {"text": title}}
    if axis.log:
        layout["type"] = "log"
    if axis.low is not None and axis.high is not None:
        ends = [math.log10(axis.low), math.log10(axis.high)] if axis.log else [axis.low, axis.high]
        layout |= {"range": ends, "autorange": False}
    elif not axis.log:
        layout["rangemode"] = "tozero"
    if axis.share:
        layout["tickformat"] = ".3~%"
    if axis.ticks:
        places, words = zip(*axis.ticks, strict=True)
        layout |= {"tickmode": "array", "tickvals": places, "ticktext": [label(text) for text in words]}
    if axis.hidden:
        layout |= {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False, "showline": False}
    return layout
