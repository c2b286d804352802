"""One small picture per metric: each engine's figure and how sure it is, on a scale from zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmbench.reports.material import Material
from llmbench.reports.numbers import digits, percent
from llmbench.reports.section import Section, View
from llmbench.results.metrics import BY_NAME
from llmbench.results.summary import SummaryRow

_SHOWN: tuple[tuple[str, float | None], ...] = (
    ("ttft", 0.5),
    ("ttft", 0.99),
    ("itl", 0.5),
    ("itl", 0.99),
    ("tpot", 0.5),
    ("e2e", 0.5),
    ("e2e", 0.99),
    ("output_throughput", None),
    ("request_throughput", None),
    ("cost", None),
    ("gpu_energy", None),
    ("cpu_energy", None),
    ("goodput", None),
    ("slo_attainment", None),
)


@dataclass(frozen=True, slots=True)
class Mark:
    """One engine's figure. `at`, `low` and `high` are percentages of the scale; None where there is nothing to draw."""

    engine: str
    colour: int
    text: str
    at: float | None
    low: float | None
    high: float | None
    interval: str


@dataclass(frozen=True, slots=True)
class Scale:
    """One metric at one level. `best` says in words which end is good."""

    title: str
    unit: str
    best: str
    top: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class LevelScales:
    number: int
    level: str
    scales: tuple[Scale, ...]


def _view(material: Material) -> View | None:
    levels = [
        LevelScales(
            number,
            level,
            tuple(
                scale
                for name, share in _SHOWN
                if (scale := _scale(material, material.rows_at(level), name, share)) is not None
            ),
        )
        for number, level in enumerate(material.levels)
    ]
    return {"panels": levels} if any(level.scales for level in levels) else None


def _scale(material: Material, rows: list[SummaryRow], name: str, share: float | None) -> Scale | None:
    metric = BY_NAME[name]
    found = [_figure(material, row, name, share) for row in rows]
    shown = [value for figure in found if figure is not None for value in figure if np.isfinite(value)]
    if not shown:
        return None
    top = 1.0 if metric.unit == "share" else max(shown) * 1.04 or 1.0
    wording = digits if metric.unit != "share" else percent
    marks = []
    for row, figure in zip(rows, found, strict=True):
        value, low, high = figure or (None, None, None)
        marks.append(
            Mark(
                engine=row.engine,
                colour=material.colour(row.engine),
                text=" ".join(
                    filter(None, (wording(value), material.own_error(row.level, name) if value is not None else ""))
                ),
                at=_place(value, top),
                low=_place(low, top),
                high=_place(high, top, clip=True),
                interval="" if low is None or low == high else f"{wording(low)} to {wording(high)}",
            )
        )
    title = metric.title if share is None else f"{metric.title} {'median' if share == 0.5 else f'p{share * 100:g}'}"
    return Scale(
        title=title[0].upper() + title[1:],
        unit="" if metric.unit == "share" else material.unit(name),
        best=f"{metric.better} is better",
        top=wording(top),
        marks=tuple(marks),
    )


def _figure(material: Material, row: SummaryRow, name: str, share: float | None) -> tuple[float, float, float] | None:
    """(value, low, high); without an interval all three are the value."""
    if share is None:
        total = row.total(name)
        if total is None:
            return None
        return total, *(material.total_interval(row, name) or (total, total))
    distribution = row.distribution(name)
    quantile = None if distribution is None else distribution.quantiles[share]
    if quantile is None:
        return None
    low, high = quantile.interval or (quantile.value, quantile.value)
    return quantile.value, low, high


def _place(value: float | None, top: float, clip: bool = False) -> float | None:
    if value is None or (not np.isfinite(value) and not clip):
        return None
    return round(min(100.0, 100 * value / top), 2)


OVERVIEW = Section("overview", "At a glance", "At a glance", _view, "overview.html")
