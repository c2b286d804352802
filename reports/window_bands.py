"""Shades over the parts of a time figure that no figure of the run counts: warm-up and cool-down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmbench.results.window import Window

READING = " Shaded: left out as warm-up or cool-down."
_NS_PER_S = 1e9
# Left out of everything that is drawn, and left out of some of it.
_DARK, _LIGHT = 0.22, 0.11


def bands(windows: Iterable[Window]) -> list[dict[str, Any]]:
    """plotly shapes over seconds since the first request of a round was due; none where nothing is left out.

    Where the windows of several rounds or engines differ, what only some of them leave out is shaded more lightly.
    """
    known = [window for window in windows if window.seconds > 0]
    if not any(window.cuts_start or window.cuts_end for window in known):
        return []
    starts, ends, lasts = (
        sorted((stamp - window.first_ns) / _NS_PER_S for window, stamp in zip(known, stamps, strict=True))
        for stamps in zip(*((window.start_ns, window.end_ns, window.last_ns) for window in known), strict=True)
    )
    spans = (
        (0.0, starts[0], _DARK),
        (starts[0], starts[-1], _LIGHT),
        (ends[0], ends[-1], _LIGHT),
        (ends[-1], lasts[-1], _DARK),
    )
    return [_band(low, high, opacity) for low, high, opacity in spans if high > low]


def _band(low: float, high: float, opacity: float) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": round(low, 6),
        "x1": round(high, 6),
        "y0": 0,
        "y1": 1,
        "fillcolor": "--wait",
        "opacity": opacity,
        "line": {"width": 0},
        "layer": "below",
    }
