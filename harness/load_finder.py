"""The trials of a search for the highest load that meets the workload's objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from llmbench.harness.assemble import Assembly, check_context
from llmbench.harness.errors import ConfigError
from llmbench.harness.plan import Trial, trial_at
from llmbench.harness.search import LoadSearch, SearchGoal, SearchResult
from llmbench.harness.slo import meets, unjudged
from llmbench.harness.slots import filled_by, openings
from llmbench.results.manifest import SearchManifest, TriedLoadManifest
from llmbench.results.records import RequestRecord
from llmbench.workloads.spec import SWEPT_FIELDS, WorkloadSpec

_UNITS = {"rate": " requests/s", "concurrency": " requests in flight", "speed": " times the trace's speed"}


class LoadFinder:
    """One search per engine, one engine after the other. Raises ConfigError for a workload without loads or limits.

    Each trial has a schedule and prompts of its own, at one load alike for all engines. A closed loop is made no wider
    than a trial's requests can fill: a wider one would offer the same load under another name.
    """

    def __init__(self, assembly: Assembly, goal: SearchGoal) -> None:
        refuse_unsearchable(assembly.spec, goal)
        trial = assembly.plan.trials[0]
        # What no trial can go beyond.
        self._limit = openings(trial) if trial.arrivals.kind == "closed" else math.inf
        self._filled_by = filled_by(openings(trial), len(trial.requests))
        if goal.start > self._limit:
            raise ConfigError(
                f"traffic.requests: a trial's {self._filled_by} cannot keep {goal.start:g} requests in flight; give "
                f"more requests, or --start {self._limit:g} or lower."
            )
        self.goal = replace(goal, highest=min(goal.highest, float(self._limit)))
        self.results: dict[str, SearchResult] = {}
        self.assembly = assembly
        self._unit = _UNITS[SWEPT_FIELDS[assembly.spec.traffic.arrivals.kind]]

    def trials(self, recall: Callable[[], Sequence[RequestRecord]]) -> Iterator[Trial]:
        """The trial to run next, chosen by what `recall` tells of the one before: its measured requests.

        An engine of whose trial nothing is told has not been asked, and its search ends.
        """
        spec = self.assembly.spec
        for engine in spec.engines:
            search = LoadSearch(self.goal)
            while (load := search.next_load()) is not None:
                self.results[engine.label] = search.result()
                at_load = spec.model_copy(update={"traffic": spec.traffic.at_level(load)})
                tried = [level.num_trials for level in search.result().tried if level.load == load]
                trial = trial_at(
                    at_load,
                    engine,
                    self.assembly.tokenizer,
                    self.assembly.model.name,
                    number=search.result().num_trials,
                    repeat=sum(tried),
                )
                check_context([trial], self.assembly.model, self.assembly.tokenizer)
                yield trial
                records = recall()
                if not records:
                    break
                in_due_order = sorted(records, key=lambda record: record.due_ns)
                search.observe(load, [meets(record, spec.measure.slo) for record in in_due_order])
            self.results[engine.label] = search.result()

    def sentences(self) -> dict[str, str]:
        """What is known for each engine so far, for people, by its label."""
        return {label: self._sentence(result) for label, result in self.results.items()}

    def manifests(self) -> tuple[SearchManifest, ...]:
        """What is known so far, to be stored."""
        return tuple(
            SearchManifest(
                engine=label,
                attainment=self.goal.attainment,
                confidence=self.goal.confidence,
                unit=self._unit.strip(),
                met=result.met,
                missed=result.missed,
                sentence=self._sentence(result),
                tried=tuple(
                    TriedLoadManifest(
                        load=level.load,
                        num_trials=level.num_trials,
                        num_met=level.share.num_met,
                        num_requests=level.share.num_requests,
                        low=level.share.low,
                        high=level.share.high,
                        verdict=level.verdict.value,
                    )
                    for level in result.tried
                ),
            )
            for label, result in self.results.items()
        )

    def _sentence(self, result: SearchResult) -> str:
        said = result.sentence(self._unit)
        if result.missed is not None or all(each.load < self._limit for each in result.tried):
            return said
        return f"{said} A trial's {self._filled_by} fill no more than {self._limit:g} slots: raise traffic.requests."


def refuse_unsearchable(spec: WorkloadSpec, goal: SearchGoal) -> None:
    """Raise ConfigError for a workload in which no highest load can be looked for, or not by so few requests."""
    traffic, slo = spec.traffic, spec.measure.slo
    if traffic.arrivals.kind not in SWEPT_FIELDS:
        raise ConfigError(
            f"traffic.arrivals: a search changes the load, and arrivals of kind {traffic.arrivals.kind} have no one "
            f"number for it; give one of {', '.join(SWEPT_FIELDS)}."
        )
    if traffic.sweep is not None:
        raise ConfigError("traffic.sweep: a search chooses its loads itself; add --set traffic.sweep=null.")
    if not any(limit is not None for limit in (slo.ttft_ms, slo.tpot_ms, slo.e2e_ms)):
        raise ConfigError("measure.slo: nothing to meet; set one of its limits, e.g. --set measure.slo.ttft_ms=500.")
    if (problem := unjudged(spec)) is not None:
        raise ConfigError(problem)
    num_requests = goal.max_repeats * traffic.requests
    if num_requests < goal.requests_to_decide:
        raise ConfigError(
            f"traffic.requests: {traffic.requests} in each of up to {goal.max_repeats} trials cannot show that "
            f"{goal.attainment:g} of requests meet the SLO at {goal.confidence:g} confidence; give at least "
            f"{-(-goal.requests_to_decide // goal.max_repeats)}."
        )
