"""The pytest fixture `llmbench`: a workload as a test, in the tables and files of pytest-benchmark where that is there.

Every start of pytest imports this file: all of llmbench is imported when a test calls the fixture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class MeasuredWorkload:
    """What the one engine did at the one load level of a workload. `path` is the run directory.

    `figures` has those of `llmbench compare` by name, e.g. `ttft_p99` (ms), +inf where too many requests failed; what
    there were too few samples to say is not in it.
    """

    path: Path
    figures: Mapping[str, float]
    num_requests: int
    num_failed: int


class WorkloadRunner:
    """What the fixture is: call it with a workload, once in a test."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder

    def __call__(
        self,
        workload: str | Path,
        overrides: Sequence[str] = (),
        *,
        engine: str | None = None,
        metric: str = "tpot",
        allow_invalid: bool = False,
    ) -> MeasuredWorkload:
        """Run `workload`, a file or the name of a shipped one, with `overrides` like `traffic.arrivals.rate=8`.

        `engine` picks one of several. The values of `metric`, one for each successful request or gap, become the
        "rounds" of pytest-benchmark's table, in seconds; the figures become its `extra_info`. The test fails where the
        measurement is invalid, unless `allow_invalid`, and where an engine does not start.
        """
        from llmbench.harness.assemble import assemble
        from llmbench.harness.errors import ExitCode
        from llmbench.harness.session import run_session
        from llmbench.results.figures import FIGURE_BY_NAME, figures_of
        from llmbench.results.metric import SampleMetric
        from llmbench.results.metrics import BY_NAME, values_of
        from llmbench.results.run import Run
        from llmbench.results.samples import each_samples
        from llmbench.results.statistics import required_n
        from llmbench.workloads.loader import load

        found = BY_NAME.get(metric)
        if not isinstance(found, SampleMetric) or found.unit != "ms":
            known = [each.name for each in BY_NAME.values() if isinstance(each, SampleMetric) and each.unit == "ms"]
            raise ValueError(f"metric {metric!r} is no latency; there are {', '.join(known)}.")
        assembly = assemble(load(str(workload), list(overrides)), [] if engine is None else [engine])
        outcome = run_session(assembly, self._folder / "run", draw=False)
        forgiven = (ExitCode.OK, ExitCode.INVALID) if allow_invalid else (ExitCode.OK,)
        if outcome.exit_code not in forgiven:
            pytest.fail(f"{workload}: {outcome.message} The run is in {outcome.path}.", pytrace=False)
        measured = each_samples(Run.open(outcome.path))
        if len(measured) != 1:
            seen = ", ".join(f"{samples.engine} at {samples.level}" for samples in measured) or "nothing"
            pytest.fail(f"{workload}: a test measures one engine at one load level, this is {seen}.", pytrace=False)
        [samples] = measured
        figures = {
            name: figure.value
            for name, figure in figures_of(samples).items()
            if (share := FIGURE_BY_NAME[name].share) is None or figure.n >= required_n(share)
        }
        num_failed = int((~samples.ok).sum())
        result = MeasuredWorkload(outcome.path, figures, len(samples), num_failed)
        seconds = [value / 1e3 for value in values_of(samples, metric).values.tolist() if math.isfinite(value)]
        self._store(seconds, metric, result)
        return result

    def _store(self, seconds: list[float], metric: str, result: MeasuredWorkload) -> None:
        if not seconds or not self._request.config.pluginmanager.hasplugin("benchmark"):
            return
        node = self._request.node
        asked = node.get_closest_marker("benchmark")
        options = {**(asked.kwargs if asked else {}), "timer": RecordedTimer(seconds)}
        node.add_marker(pytest.mark.benchmark(**options), append=False)
        benchmark = self._request.getfixturevalue("benchmark")
        # JSON has no infinity.
        benchmark.extra_info.update(
            {name: value if math.isfinite(value) else str(value) for name, value in result.figures.items()},
            metric=metric,
            num_requests=result.num_requests,
            num_failed=result.num_failed,
        )
        benchmark.pedantic(lambda: None, rounds=len(seconds), iterations=1)


class RecordedTimer:
    """A clock by which the durations of `seconds` pass one after the other: each pair of calls spans one of them.

    pytest-benchmark times what it calls itself; by this clock it finds what was measured before.
    """

    def __init__(self, seconds: Iterable[float]) -> None:
        self._readings = chain.from_iterable((0.0, duration) for duration in seconds)

    def __call__(self) -> float:
        return next(self._readings)


@pytest.fixture
def llmbench(request: pytest.FixtureRequest, tmp_path: Path) -> WorkloadRunner:
    """Run an llmbench workload: `llmbench("workload.yaml").figures["tpot_p50"]`."""
    return WorkloadRunner(request, tmp_path)
