"""What every section of a report draws from: one run, opened once, with its figures computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from llmbench.reports.numbers import NO_BREAK, digits
from llmbench.results.costs import currency_of
from llmbench.results.manifest import Manifest
from llmbench.results.matching import Side, side_of
from llmbench.results.metrics import BY_NAME
from llmbench.results.own_error import own_error_ms
from llmbench.results.run import Run
from llmbench.results.samples import Samples, each_samples
from llmbench.results.statistics import Interval
from llmbench.results.summary import Summary, SummaryRow, summarise
from llmbench.results.units import CONFIDENCE, student_t

# As many as report.css has colours for; a ninth engine gets the first one's again.
NUM_COLOURS = 8


@dataclass(frozen=True, eq=False)
class Material:
    """A run with everything that sections ask of it more than once."""

    run: Run

    @property
    def manifest(self) -> Manifest:
        return self.run.manifest

    @property
    def workload(self) -> Mapping[str, object]:
        return self.run.manifest.workload

    @cached_property
    def samples(self) -> tuple[Samples, ...]:
        """One entry per engine and level, by level, then in the workload's order of engines."""
        return tuple(each_samples(self.run))

    @cached_property
    def summary(self) -> Summary:
        return summarise(self.run)

    @cached_property
    def side(self) -> Side:
        """The run as what comparisons take: every figure with its error."""
        return side_of(self.run)

    @cached_property
    def levels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(samples.level for samples in self.samples))

    @cached_property
    def engines(self) -> tuple[str, ...]:
        """Engines that were asked anything, in the workload's order."""
        asked = {samples.engine for samples in self.samples}
        listed = [engine.label for engine in self.manifest.engines]
        return tuple(dict.fromkeys([*(label for label in listed if label in asked), *sorted(asked - {*listed})]))

    def colour(self, engine: str) -> int:
        """The number of an engine's colour, the same in every table and picture."""
        return self.engines.index(engine) % NUM_COLOURS

    def total_interval(self, row: SummaryRow, name: str) -> Interval | None:
        """The 95 % interval of a total; None where the run has too few rounds to tell."""
        if name == "cost":
            return self._cost_interval(row)
        figures = (each.figures for each in self.side.measured if (each.engine, each.level) == (row.engine, row.level))
        figure = next((found[name] for found in figures if name in found), None)
        if figure is None or figure.log_error is None or figure.value <= 0:
            return None
        factor = math.exp(student_t((1 + CONFIDENCE) / 2, figure.freedom) * figure.log_error)
        high = figure.value * factor
        return Interval(figure.value / factor, min(1.0, high) if BY_NAME[name].unit == "share" else high)

    def _cost_interval(self, row: SummaryRow) -> Interval | None:
        # The price is exact: what is not is how many tokens an hour gives.
        cost, rate, bounds = row.total("cost"), row.total("output_throughput"), None
        if cost is not None and rate is not None:
            bounds = self.total_interval(row, "output_throughput")
        if cost is None or rate is None or bounds is None:
            return None
        return Interval(cost * rate / bounds.high, cost * rate / bounds.low)

    def own_error(self, level: str, name: str) -> str:
        """The instrument's own error in the metric called `name` at a level, as `± 0.31` in ms; empty without one."""
        error_ms = own_error_ms(self.manifest, level, name)
        return "" if error_ms is None else f"±{NO_BREAK}{digits(error_ms)}"

    def unit(self, name: str) -> str:
        """The unit of the metric called `name`, with this run's currency where it is one of money."""
        unit = BY_NAME[name].unit
        return unit.replace("currency", currency_of(self.run) or "currency")

    def place(self, engine: str, level: str) -> tuple[int, int]:
        """Where an engine at a level comes in every list: by level, then in the workload's order of engines."""
        return self.levels.index(level), self.engines.index(engine)

    def samples_at(self, level: str) -> list[Samples]:
        return [samples for samples in self.samples if samples.level == level]

    def rows_at(self, level: str) -> list[SummaryRow]:
        return [row for row in self.summary.rows if row.level == level]
