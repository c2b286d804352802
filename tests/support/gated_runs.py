"""Runs whose requests have a little noise of their own and of their round, to be judged by the gate."""

from __future__ import annotations

from typing import Any

import numpy as np
from made_runs import Entry, entry

from llmbench.results.comparison_set import compare_sides
from llmbench.results.gate import GateResult, GateSpec, judge_gate
from llmbench.results.matching import Side

RIG = {"cpu": "Some CPU", "cores_usable": 8, "memory_bytes": 64 * 2**30, "gpus": []}
WORKLOAD = {"name": "w", "traffic": {"requests": 40}, "measure": {"slo": {}, "rounds": 6}, "engines": [{"name": "a"}]}


def requests(
    seed: int, *, ttft: float = 20, itl: float = 5, num: int = 40, rounds: int = 6, slow_tail: float = 0, **fields: Any
) -> list[Entry]:
    """Requests with a little noise per request and per round; `slow_tail` is added to the TTFT of every 20th."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(rounds):
        drift = np.exp(generator.normal(0, 0.004))
        for index in range(num):
            due = 1000.0 * number * num + 100 * index
            first = ttft * drift * np.exp(generator.normal(0, 0.05)) + (slow_tail if index % 20 == 7 else 0)
            gaps = itl * drift * np.exp(generator.normal(0, 0.05, 8))
            stamps = due + first + np.concatenate([[0], np.cumsum(gaps)])
            made.append(
                entry(
                    index,
                    due=due,
                    sent=due + 0.1,
                    tokens=[(float(stamp), 1) for stamp in stamps],
                    end=float(stamps[-1]) + 0.2,
                    **{"round": number, **fields},
                )
            )
    return made


def judged(subject: Side, baseline: Side, **options: Any) -> GateResult:
    """By every figure, at its own margins."""
    return judge_gate(compare_sides([subject], baseline, margins=GateSpec().margins()), **options)


def failed_figures(result: GateResult) -> set[str]:
    return {case.comparison.spec.name for case in result.failed}
