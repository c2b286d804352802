"""The slots of a closed loop that a trial's requests can fill: of more, the rest stay empty from the start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llmbench.harness.plan import Trial
from llmbench.workloads.lengths import smallest
from llmbench.workloads.prompt_specs import ConversationPrompts
from llmbench.workloads.spec import TrafficSpec, WorkloadSpec


def openings(trial: Trial) -> int:
    """How many of the trial's requests follow no other: so many can be under way at once, and no more."""
    return sum(request.after is None for request in trial.requests)


def most_openings(spec: WorkloadSpec, traffic: TrafficSpec) -> int:
    """What `openings` is at most for a trial of `traffic`, known without its prompts."""
    if isinstance(spec.prompts, ConversationPrompts):
        return -(-traffic.requests // (smallest(spec.prompts.turns) or 1))
    return traffic.requests


def planned_too_wide(trials: Iterable[Trial]) -> tuple[str, ...]:
    """One sentence for each level of load at which a closed loop has slots that stay empty."""
    wide = {trial.level: trial for trial in trials if trial.arrivals.kind == "closed"}
    return tuple(
        _sentence(level, trial.arrivals.concurrency, openings(trial), len(trial.requests))
        for level, trial in wide.items()
        if trial.arrivals.kind == "closed" and openings(trial) < trial.arrivals.concurrency
    )


def asked_too_wide(spec: WorkloadSpec) -> Iterator[str]:
    """The same of a workload alone: those that no prompts could fill."""
    for traffic in spec.traffic.levels():
        if traffic.arrivals.kind != "closed":
            continue
        num_openings, concurrency = most_openings(spec, traffic), traffic.arrivals.concurrency
        if num_openings < concurrency:
            yield _sentence(f"closed {concurrency}", concurrency, num_openings, traffic.requests)


def filled_by(num_openings: int, num_requests: int) -> str:
    """Who fills the slots, in words: `24 requests`, or `6 conversations`."""
    return f"{num_openings} {'requests' if num_openings == num_requests else 'conversations'}"


def _sentence(level: str, concurrency: int, num_openings: int, num_requests: int) -> str:
    return (
        f"{level}: a round's {filled_by(num_openings, num_requests)} fill {num_openings} of {concurrency} slots, so "
        f"no more than {num_openings} requests are in flight; raise traffic.requests, or "
        "lower the concurrency."
    )
