"""A run in figures: every metric of every engine at every load level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from llmbench.results.metric import SampleMetric
from llmbench.results.metrics import METRICS, ordered_of
from llmbench.results.run import Run
from llmbench.results.samples import Samples, by_population, each_samples
from llmbench.results.statistics import Distribution, describe
from llmbench.results.window import Rules, described

Value = Distribution | float | None


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One engine at one level. `values` has an entry for each of METRICS; None where a metric is not defined.

    Requests are those that count; `window` says for people by which rules and over which time.
    """

    engine: str
    level: str
    num_requests: int
    num_failed: int
    num_rounds: int
    values: Mapping[str, Value]
    window: str

    def distribution(self, name: str) -> Distribution | None:
        value = self.values[name]
        assert not isinstance(value, float), f"{name} is a total"
        return value

    def total(self, name: str) -> float | None:
        value = self.values[name]
        assert not isinstance(value, Distribution), f"{name} has a distribution"
        return value


@dataclass(frozen=True, slots=True)
class Summary:
    """Rows by level, then in the order in which the workload lists the engines."""

    rows: tuple[SummaryRow, ...]


@dataclass(frozen=True, slots=True)
class PopulationRow:
    """What one population of a mixed workload saw of one engine at one level."""

    population: str
    row: SummaryRow


@lru_cache(maxsize=4)
def summarise(run: Run) -> Summary:
    """All metrics of `run`, computed from its rows alone."""
    return Summary(tuple(summarise_samples(samples) for samples in each_samples(run)))


@lru_cache(maxsize=4)
def summarise_populations(run: Run) -> tuple[PopulationRow, ...]:
    """All metrics by who asked, in the order of `summarise`; empty where the workload mixes no populations."""
    return tuple(
        PopulationRow(name, summarise_samples(part))
        for samples in each_samples(run)
        for name, part in by_population(samples).items()
    )


def summarise_samples(samples: Samples) -> SummaryRow:
    """All metrics of one engine at one level."""
    values: dict[str, Value] = {}
    for metric in METRICS:
        if isinstance(metric, SampleMetric):
            ordered = ordered_of(samples, metric.name)
            values[metric.name] = (
                None if ordered is None else describe(ordered, samples.units, intervals=metric.better is not None)
            )
        else:
            values[metric.name] = metric.value(samples)
    return SummaryRow(
        engine=samples.engine,
        level=samples.level,
        num_requests=len(samples),
        num_failed=int((~samples.ok).sum()),
        num_rounds=samples.num_rounds,
        values=values,
        window=described(samples.windows, len(samples), len(samples.whole), Rules.of(samples.run.manifest.workload)),
    )
