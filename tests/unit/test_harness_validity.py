"""When a run's numbers must not be used, and what is only worth a remark."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmbench.harness.validity import judge, judge_trial, judge_windows, percentile_ns
from llmbench.results.manifest import ArrivalManifest, InstrumentManifest, LagManifest, TrialManifest
from llmbench.results.records import RequestRecord
from llmbench.results.window import Rules

MS = 1_000_000
GOOD = RequestRecord(
    request_id="a-r0-00000",
    engine="a",
    level="poisson 8/s",
    round=0,
    index=0,
    warmup=False,
    due_ns=1_000 * MS,
    connect_ns=1_000 * MS,
    sent_ns=1_001 * MS,
    first_byte_ns=1_050 * MS,
    first_token_ns=1_050 * MS,
    last_token_ns=1_100 * MS,
    end_ns=1_101 * MS,
    prompt_tokens=10,
    output_tokens=4,
    requested_tokens=4,
    token_source="usage_delta",
    finish_reason="length",
    status="ok",
    http_status=200,
    error_kind=None,
    error=None,
    output_sha256=None,
)
FAILED = replace(GOOD, status="failed", sent_ns=None, error_kind="connect", error="refused", output_tokens=None)


A = {"a": True}


def test_a_good_run_has_nothing_to_say() -> None:
    assert judge([GOOD] * 100, A) == []


def test_one_late_request_in_a_hundred_is_within_the_budget_and_two_are_not() -> None:
    late = replace(GOOD, sent_ns=GOOD.due_ns + 9 * MS)
    assert judge([GOOD] * 99 + [late], A) == []
    [finding] = judge([GOOD] * 98 + [late] * 2, A)
    assert finding.invalid
    assert "p99 9.0 ms" in finding.text


def test_a_server_that_is_slow_to_accept_does_not_make_the_schedule_late() -> None:
    begun = replace(GOOD, begun_ns=GOOD.due_ns + MS, connect_ns=GOOD.due_ns + 51 * MS, sent_ns=GOOD.due_ns + 52 * MS)
    assert judge([begun] * 10, A) == []
    late = replace(begun, begun_ns=GOOD.due_ns + 9 * MS)
    [finding] = judge([late] * 10, A)
    assert "p99 10.0 ms after they were due (budget 5 ms, n = 10, connecting left out)" in finding.text


def test_a_queue_that_grows_at_a_constant_load_is_a_flag_of_its_trial() -> None:
    def answered(index: int, wait_ms: int, level: str) -> RequestRecord:
        due_ns = index * 20 * MS
        first_ns = due_ns + wait_ms * MS
        return replace(
            GOOD, index=index, level=level, due_ns=due_ns, sent_ns=due_ns, first_token_ns=first_ns, end_ns=first_ns + 1
        )

    growing = [answered(index, 10 + 10 * index, "poisson 9/s") for index in range(60)]
    steady = [answered(index, 10 + index % 7, "poisson 8/s") for index in range(60)]
    [finding] = judge([*steady, *growing], A, constant_load=True)
    assert not finding.invalid
    assert finding.text.startswith("a, poisson 9/s, round 1: no steady state was reached.")
    assert judge(growing, A) == []


def test_a_load_that_was_over_before_its_answers_is_called_a_burst() -> None:
    def answered(index: int, number: int, gap_ms: int) -> RequestRecord:
        due_ns = number * 10**12 + index * gap_ms * MS
        return replace(GOOD, index=index, round=number, due_ns=due_ns, sent_ns=due_ns, end_ns=due_ns + 150 * MS)

    short = [answered(index, number, 2) for number in range(3) for index in range(60)]
    [finding] = judge(short, A, constant_load=True)
    assert not finding.invalid
    assert "60 requests were all due within 0.12 s, and an answer took 0.15 s at the median" in finding.text
    assert judge([answered(index, 0, 3) for index in range(60)], A, constant_load=True) == []
    assert judge(short, A) == [], "a burst that was asked for, or a closed loop"


def test_waiting_for_a_slot_that_the_workload_itself_bounds_is_not_lateness() -> None:
    late = replace(GOOD, sent_ns=GOOD.due_ns + 9 * MS)
    assert judge([late] * 10, A, lag_matters=False) == []


def test_no_success_is_invalid_and_names_the_kinds() -> None:
    [finding] = judge([FAILED, FAILED], A)
    assert finding.invalid
    assert "none of 2 requests succeeded (connect)" in finding.text


def test_warm_up_is_not_judged_and_an_engine_without_requests_neither() -> None:
    assert judge([replace(FAILED, warmup=True)], {"a": True, "b": True}) == []


def test_one_answer_in_a_hundred_of_another_length_is_flagged_and_more_are_invalid() -> None:
    off = replace(GOOD, output_tokens=3)
    [finding] = judge([GOOD] * 99 + [off], A)
    assert not finding.invalid
    assert "1 of 100 answers do not have the length asked" in finding.text
    [finding] = judge([GOOD] * 98 + [off] * 2, A)
    assert finding.invalid


def test_an_engine_that_cannot_be_held_to_a_length_is_flagged_alone() -> None:
    [finding] = judge([replace(GOOD, output_tokens=3)] * 10, {"a": False})
    assert not finding.invalid
    assert "no way to go on after its end token" in finding.text


def test_answers_that_may_end_when_they_like_have_no_wrong_length() -> None:
    assert judge([replace(GOOD, output_tokens=3)], A, exact_lengths=False) == []


def test_a_count_nobody_gave_is_no_wrong_length() -> None:
    assert judge([replace(GOOD, output_tokens=None)], A) == []


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 2), (0.75, 3), (0.99, 4), (1.0, 4)])
def test_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile_ns([4, 3, 2, 1], share) == expected


LATE = LagManifest(n=1000, p50_ns=MS, p99_ns=9 * MS, max_ns=20 * MS)


def trial(**instrument: Any) -> TrialManifest:
    return TrialManifest(
        engine="a",
        level="poisson 8/s",
        round=0,
        start_ns=0,
        end_ns=10_000 * MS,
        requests=80,
        instrument=InstrumentManifest(event_loop="uvloop", **instrument),
    )


@pytest.mark.parametrize(
    ("instrument", "said"),
    [
        ({"clock": "user space", "loop_lag": LATE}, "read late, p99 9.0 ms"),
        ({"clock": "kernel", "client_lag": LATE, "num_chunks": 1000, "num_coalesced": 30}, "3.0% of the chunks only"),
        ({"clock": "kernel", "cpu_s": 9.5}, "busy 95% of the time"),
    ],
)
def test_an_instrument_that_could_not_keep_up(instrument: dict[str, Any], said: str) -> None:
    [finding] = judge_trial(trial(**instrument), "a, poisson 8/s")
    assert finding.invalid
    assert said in finding.text


@pytest.mark.parametrize(
    "instrument",
    [
        {"clock": "kernel", "loop_lag": LATE, "client_lag": LATE, "num_chunks": 1000, "num_coalesced": 5},
        {"clock": "packet", "client_lag": LATE, "num_chunks": 1000, "num_coalesced": 500},
        {"clock": "kernel", "num_chunks": 1000, "num_coalesced": 500, "cpu_s": 1.0},
    ],
)
def test_late_reads_that_the_kernel_s_stamps_make_good(instrument: dict[str, Any]) -> None:
    assert judge_trial(trial(**instrument), "a") == []


def test_arrivals_of_another_rate_are_invalid() -> None:
    fit = ArrivalManifest(n=80, asked_rate=8, rate=4, rate_p=1e-9, gap_cv=1, asked_gap_cv=1)
    [finding] = judge_trial(trial().model_copy(update={"arrivals": fit}), "a")
    assert finding.invalid
    assert "4 requests/s instead of 8" in finding.text


def test_hosts_whose_clocks_are_not_known_well_make_a_trial_invalid() -> None:
    [finding] = judge_trial(trial(clock="kernel", clock_error_ns=7 * MS), "a")
    assert "may be 7.0 ms apart (budget 5 ms)" in finding.text
    assert judge_trial(trial(clock="kernel", clock_error_ns=MS), "a") == []


def test_one_starved_worker_makes_a_trial_invalid() -> None:
    calm, starved = (InstrumentManifest(event_loop="uvloop", clock="kernel", cpu_s=cpu_s) for cpu_s in (1.0, 9.5))
    [finding] = judge_trial(trial(clock="kernel", cpu_s=10.5, workers=(calm, starved)), "a")
    assert finding.text.startswith("a: load worker 2 was busy 95% of the time")
    assert judge_trial(trial(clock="kernel", cpu_s=10.5, workers=(calm,) * 8), "a") == []


def test_rules_that_leave_nothing_of_a_round_make_the_run_invalid() -> None:
    records = [replace(GOOD, index=index, due_ns=GOOD.due_ns + index * MS) for index in range(10)]
    assert judge_windows(records, Rules("3 requests", "10%")) == []
    assert judge_windows(records, Rules(None, None)) == []
    [finding] = judge_windows(records, Rules("5 s", None))
    assert finding.invalid
    assert finding.text.startswith("a, poisson 8/s, round 1: warm-up 5 s, cool-down none would leave nothing")


def test_an_auto_rule_without_an_answer_is_a_flag() -> None:
    [finding] = judge_windows([GOOD, replace(GOOD, warmup=True)], Rules("auto", None))
    assert not finding.invalid
    assert "fewer than 50 answers" in finding.text
