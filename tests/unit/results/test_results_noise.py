"""The noise floor: what figures do while nothing changes, and the rounds that see through it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from gated_runs import RIG, WORKLOAD

from llmbench.results.comparison_set import compare_sides
from llmbench.results.errors import RunError
from llmbench.results.figures import Figure
from llmbench.results.gate import GateSpec, judge_gate
from llmbench.results.manifest import EngineManifest
from llmbench.results.matching import Identity, Measured, Side
from llmbench.results.noise import noise_floor, rounds_needed, run_spreads


def test_noise_of_runs_that_are_alike(measured) -> None:
    floor = noise_floor([measured(seed) for seed in range(3)], effects=(0.05, 0.2))
    tpot = next(row for row in floor.rows if row.spec.name == "tpot_p50")
    assert 0.002 < tpot.between_rounds < 0.008  # drawn with 0.004
    assert tpot.between_runs is not None
    assert tpot.between_runs < 0.004
    assert tpot.rounds[0.2] == 4
    assert floor.recommended(0.2).rounds is not None


def test_what_runs_differ_by_is_the_deviation_of_a_sample() -> None:
    identity = Identity({}, "p", {"cpu": "x"}, finished=True, invalid=())
    runs = []
    for drift in (-0.02, 0.0, 0.02):
        figure = Figure(
            10 * math.exp(drift), n=400, num_failed=0, num_rounds=8, log_error=0.0, freedom=7, across_rounds=True
        )
        runs.append(Side("r", identity, (Measured("a", "closed 4", {"tpot_p50": figure}, 400, 8),)))
    spread = run_spreads(runs)["a", "closed 4", "tpot_p50"]
    assert (spread.deviation, spread.freedom) == (pytest.approx(0.02), 2)


def test_a_figure_too_noisy_for_any_rounds_does_not_hide_what_the_others_take(measured) -> None:
    floor = noise_floor([measured(seed) for seed in range(3)], effects=(0.05, 0.2))
    rows = [replace(row, rounds={0.05: None, 0.2: None}) if row.spec.name == "ttft_p50" else row for row in floor.rows]
    found = replace(floor, rows=tuple(rows)).recommended(0.2)
    others = [rounds for row in rows if row.margin < 0.2 and (rounds := row.rounds[0.2]) is not None]
    assert (found.rounds, found.too_noisy) == (max(others), ("TTFT p50",))


def test_noise_of_unlike_runs_is_refused(measured) -> None:
    with pytest.raises(RunError, match="is no repetition of"):
        noise_floor([measured(1), measured(2, num=20)])


def test_more_noise_takes_more_rounds_and_a_change_within_the_margin_never_shows() -> None:
    rounds = [rounds_needed(0.1, 0.03, noise, 0.0, 0.005, 0.8) for noise in (0.001, 0.03, 0.06, 1.0)]
    assert rounds[0] == 4
    assert rounds[1] is not None
    assert rounds[2] is not None
    assert rounds[1] < rounds[2]
    assert rounds[3] is None
    assert rounds_needed(0.02, 0.03, 0.0, 0.0, 0.05, 0.8) is None


def test_what_runs_differ_by_takes_more_rounds_the_less_it_is_known() -> None:
    # `gate --noise` has Student's t of the few runs: rounds for a well known noise would not show the change to it.
    known, from_five = (rounds_needed(0.1, 0.03, 0.03, 0.008, 0.005, 0.8, runs_freedom=freedom) for freedom in (100, 4))
    alone = rounds_needed(0.1, 0.03, 0.03, 0.0, 0.005, 0.8)
    assert alone is not None
    assert known is not None
    assert from_five is not None
    assert alone < known < from_five
    assert rounds_needed(0.1, 0.03, 0.02, 0.03, 0.005, 0.8, runs_freedom=4) is None


def test_a_gate_that_is_given_the_runs_takes_rounds_of_its_own(measured) -> None:
    drifts = (1.0, 1.01, 0.995, 1.005)
    runs = [measured(seed, itl=5 * drift) for seed, drift in enumerate(drifts)]
    floor = noise_floor(runs, effects=(0.05, 0.2), figures=["tpot_p50"])
    plain, knowing = floor.recommended(0.2), floor.recommended_knowing_runs(0.2)
    assert knowing is not None
    assert plain.rounds is not None
    assert knowing.rounds is None or knowing.rounds >= plain.rounds
    # What four runs tell of a deviation of 0.7 % leaves 5 % within it.
    small = floor.recommended_knowing_runs(0.05)
    assert small is not None
    assert (small.rounds, small.too_noisy) == (None, ("TPOT p50",))
    assert noise_floor(runs[:2], effects=(0.2,)).recommended_knowing_runs(0.2) is None


def test_what_runs_differ_by_anyway_is_no_regression(measured) -> None:
    # This rig is up to 6 % slower or faster from one run to the next, whatever is measured.
    drifts = {1: 1.0, 2: 1.06, 3: 0.97, 4: 1.03}
    runs = [measured(seed, itl=5 * drift, ttft=20 * drift) for seed, drift in drifts.items()]
    subject = measured(9, itl=5 * 1.06, ttft=20 * 1.06)
    margins = GateSpec().margins()
    assert judge_gate(compare_sides([subject], runs[0], margins=margins)).verdict == "failed"
    spreads = run_spreads(runs)
    assert judge_gate(compare_sides([subject], runs[0], margins=margins, spreads=spreads)).verdict == "passed"
    lost = measured(10, itl=15, ttft=60)
    assert judge_gate(compare_sides([lost], runs[0], margins=margins, spreads=spreads)).verdict == "failed"
    with pytest.raises(RunError, match="takes 3 runs or more"):
        run_spreads(runs[:2])


def test_noise_of_another_machine_excuses_nothing(measured) -> None:
    runs = [measured(seed, itl=5 * drift) for seed, drift in enumerate((1.0, 1.06, 0.97))]
    elsewhere = measured(7, run_fields={"environment": RIG | {"cpu": "Another CPU"}})
    with pytest.raises(RunError, match=r"does not show what .* would do anyway: Hardware differs: cpu"):
        run_spreads(runs, elsewhere)
    longer = measured(8, run_fields={"workload": WORKLOAD | {"traffic": {"requests": 50}}})
    with pytest.raises(RunError, match=r"Workload differs: traffic\.requests"):
        run_spreads(runs, longer)
    at_another_level = measured(9, level="closed 8")
    with pytest.raises(RunError, match="a at closed 1 is in"):
        run_spreads(runs, at_another_level)


def test_noise_counts_for_the_engine_by_its_label_in_the_run_that_is_judged(measured) -> None:
    runs = [measured(seed, itl=5 * drift) for seed, drift in enumerate((1.0, 1.06, 0.97))]
    renamed = measured(
        7,
        engine="head",
        run_fields={"engines": (EngineManifest(label="head", name="reference"),), "invalid": ("Late.",)},
    )
    assert run_spreads(runs, renamed)["head", "closed 1", "tpot_p50"].deviation > 0.02
