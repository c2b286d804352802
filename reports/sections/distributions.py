"""How latencies are distributed: one cumulative curve per engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmbench.reports.figure import Axis, Figure, line, spans_decades, thinned
from llmbench.reports.material import Material
from llmbench.reports.numbers import count, digits
from llmbench.reports.section import Section, View, figures_by_level
from llmbench.results.metrics import BY_NAME
from llmbench.results.series import Cdf, cdf
from llmbench.results.units import Floats

_READINGS = {
    "ttft": ("Time to first token", "from when a request was due until its first token"),
    "itl": ("Inter-token latency", "between neighbouring tokens; a chunk's gap is spread over its tokens"),
    "tpot": ("Time per output token", "mean time per token of each answer after its first"),
    "e2e": ("End-to-end latency", "from when a request was due until its answer was complete"),
}

_MAX_POINTS_IN_ALL = 16_000
# How much of the axis is left to the right of the greatest value.
_ROOM = 0.02


def _view(material: Material) -> View | None:
    return figures_by_level(
        material,
        "Each point says what share of all requests (or gaps) took at most that long. A curve further left is faster; "
        "one that stops below 100 % lost the rest to failures. A long flat top is a tail: a few that waited longer.",
        lambda level: [figure for name in _READINGS if (figure := _figure(material, level, name)) is not None],
    )


def _figure(material: Material, level: str, name: str) -> Figure | None:
    found = [(samples.engine, curve) for samples in material.samples_at(level) if (curve := cdf(samples, name))]
    if not found:
        return None
    points = max(100, _MAX_POINTS_IN_ALL // (len(_READINGS) * len(material.samples)))
    log = spans_decades([curve.x for _, curve in found])
    ends = np.concatenate([curve.x for _, curve in found])
    low, high = (float(ends.min()), float(ends.max())) if ends.size else (0.0, 0.0)

    def further(x: float) -> float:
        return x * (high / low) ** _ROOM if log else x + _ROOM * high

    title, reading = _READINGS[name]
    unit = BY_NAME[name].unit
    return Figure(
        title=title,
        reading=reading[0].upper() + reading[1:] + ".",
        alt=f"{title}: " + "; ".join(_said(engine, curve, unit) for engine, curve in found) + ".",
        traces=[
            line(
                engine,
                material.colour(engine),
                *_ended(*thinned(curve.x, curve.y, points), further),
                step=True,
                hover="%{y:.1%} within %{x:.4~g} " + unit,
            )
            for engine, curve in found
        ],
        x=Axis(
            BY_NAME[name].title,
            unit,
            log=log,
            low=None if high <= 0 else low * low / further(low) if log else 0.0,
            high=None if high <= 0 else further(high),
        ),
        y=Axis("share of all", low=0, high=1.02, share=True),
    )


def _ended(x: Floats, y: Floats, further: Callable[[float], float]) -> tuple[Floats, Floats]:
    """The curve with its last share held a little further to the right: the step up to it may fall into a gap of a
    dashed line, or stand on the plot's edge, and a curve that ends at 100 % would seem to stop below."""
    return (np.append(x, further(x[-1])), np.append(y, y[-1])) if x.size else (x, y)


def _said(engine: str, curve: Cdf, unit: str) -> str:
    words = [
        f"{share:.0%} within {digits(float(curve.x[reached.argmax()]))} {unit}"
        for share in (0.5, 0.9)
        if (reached := curve.y >= share).any()
    ]
    return f"{engine} {', '.join(words) or 'mostly failed'} (n = {count(curve.n)}, {count(curve.num_failed)} failed)"


DISTRIBUTIONS = Section("distributions", "Latency, all of it", "Distributions", _view)
