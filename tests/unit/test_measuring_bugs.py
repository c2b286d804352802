"""Measuring bugs found in other benchmarks, each with the tests that keep it out of this one."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
ROOMS = ("engines", "harness", "reference_engine", "reports", "results", "workloads")

# What goes wrong elsewhere, and the tests here: file::function below tests/.
BUGS: dict[str, tuple[str, ...]] = {
    "the clock starts when the call has returned: connect, send and head are left out of TTFT": (
        "integration/loadgen/test_load_schedule.py::test_time_to_headers_is_part_of_time_to_first_token",
        "integration/loadgen/test_load_schedule.py::test_a_server_that_stops_accepting_shows_in_due_time_latency",
    ),
    "durations are taken from the wall clock, and a step of NTP is a latency": (
        "unit/test_measuring_bugs.py::test_the_wall_clock_is_read_in_few_places",
    ),
    "token times are interpolated between the first and the last, and stalls vanish": (
        "integration/loadgen/test_load_schedule.py::test_a_stall_in_mid_stream_stays_where_it_was",
        "integration/session/test_profile.py::test_a_stall_shows_in_the_profile_and_in_itl_p99",
    ),
    "a true zero is taken for missing, and percentiles of nothing are zero": (
        "unit/results/test_results_statistics.py::test_nothing_is_none_and_zero_is_zero",
        "unit/reports/test_console.py::test_what_was_not_measured_is_not_zero",
        "unit/reports/test_console.py::test_a_rate_over_no_time_is_not_zero",
    ),
    "an exception while aggregating is logged, and the sample lost under a normal exit": (
        "integration/session/test_nothing_is_lost.py::test_statistics_that_fail_fail_the_run_and_lose_no_row",
    ),
    "the sender sleeps an interval after each send, and the rate drifts below the one asked": (
        "unit/harness/test_send_rate.py::test_work_between_sends_does_not_slow_the_schedule_down",
        "integration/loadgen/test_load_schedule.py::test_due_times_are_the_plan_and_do_not_drift",
    ),
    "seed 0 means unseeded": (
        "unit/workloads/test_workloads_prompts.py::test_seed_zero_is_a_seed_and_seeds_differ",
        "unit/workloads/test_workloads_arrivals.py::test_any_schedule_ascends_from_zero_or_later_and_repeats",
    ),
    "a full answer is generated before the one that is reported as the first": (
        "integration/session/test_nothing_is_lost.py::test_the_engine_is_asked_nothing_that_is_not_a_row",
    ),
    "a validator's branch that nobody has run always raises": (
        "unit/workloads/test_workloads_loader.py::test_a_wrong_value_is_named_with_what_is_allowed",
        "unit/workloads/test_workloads_loader.py::test_engines_may_be_names_or_mappings",
        "unit/workloads/test_workloads_loader.py::test_any_data_is_a_workload_or_a_workload_error",
    ),
    "what is called deterministic goes through hash(), which differs from process to process": (
        "unit/workloads/test_workloads_prompts.py::test_plans_are_the_same_bytes_in_other_processes",
        "unit/workloads/test_workloads_arrivals.py::test_the_same_seed_gives_the_same_schedule_in_another_process",
        "unit/test_harness_plan.py::test_the_plan_is_byte_identical_in_any_process",
    ),
    "the tokens that were asked for are counted as if they had been sent": (
        "unit/harness/test_to_records.py::test_nothing_seen_is_none_and_the_planned_prompt_length_stands_in",
        "unit/engines/test_engines_openai_decode.py::test_without_any_count_text_is_counted_again",
        "unit/engines/test_engines_openai_decode.py::"
        "test_an_answer_in_one_piece_without_any_count_has_an_unknown_length",
    ),
    "one run is all there is: no spread, no check": (
        "unit/results/test_results_statistics.py::test_the_mean_of_rounds_has_students_interval",
        "unit/results/test_results_answer.py::test_one_round_says_what_it_does_not_know",
    ),
}

# Where the date is told, and where the kernel's stamps are brought onto the monotonic clock.
MAY_READ_THE_WALL_CLOCK = {
    "harness/environment.py",
    "harness/wall_offset.py",
    "reference_engine/server/formats.py",
}


@cache
def functions(path: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("bug", BUGS)
def test_each_has_its_tests(bug: str) -> None:
    for test in BUGS[bug]:
        path, _, name = test.partition("::")
        assert name in functions(TESTS / path), test


def test_the_wall_clock_is_read_in_few_places() -> None:
    readers = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if any(_reads_the_wall_clock(node) for node in ast.walk(ast.parse(path.read_text())))
    }
    assert readers <= MAY_READ_THE_WALL_CLOCK


def _reads_the_wall_clock(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "time" and any(alias.name in ("time", "time_ns") for alias in node.names)
    if isinstance(node, ast.Attribute):
        of_time = isinstance(node.value, ast.Name) and node.value.id == "time"
        return (of_time and node.attr in ("time", "time_ns")) or node.attr == "CLOCK_REALTIME"
    return False
