"""A SIGKILL of the bundled engine while it loads, between two requests and in the middle of a stream."""

from __future__ import annotations

from killed_engines import assert_killed_while_loading, assert_killed_while_serving, run_and_kill
from workplace import Workplace

# Trained, small and in the package: nothing is made or downloaded.
MODEL = "bundled:python-target"
# The compiled kernels would be built by whoever starts first, which takes longer than all else.
SETTINGS = {"kernels": "torch", "threads": 1}


def test_killed_while_loading_it_is_left_out(workplace: Workplace) -> None:
    assert_killed_while_loading(run_and_kill(workplace, "reference", "loading", model=MODEL, settings=SETTINGS))


def test_killed_between_two_requests_the_next_ones_fail(workplace: Workplace) -> None:
    assert_killed_while_serving(run_and_kill(workplace, "reference", "idle", model=MODEL, settings=SETTINGS), "connect")


def test_killed_in_mid_stream_it_is_started_again_for_its_next_round(workplace: Workplace) -> None:
    killed = run_and_kill(workplace, "reference", "mid-stream", model=MODEL, settings=SETTINGS, rounds=2)
    assert_killed_while_serving(killed, "truncated", "connect")
    assert any(row["output_tokens"] for row in killed.victim[0] if row["error_kind"] == "truncated")


def test_killed_and_not_to_be_restarted_its_later_rounds_are_left_out(workplace: Workplace) -> None:
    killed = run_and_kill(workplace, "reference", "mid-stream", model=MODEL, settings=SETTINGS, rounds=2, restart=False)
    assert killed.code == 5, killed.stderr
    first, second = killed.victim
    assert {row["status"] for row in first} == {"ok", "failed"}
    assert second == []
    assert any("it is not started again (restart: false)" in problem for problem in killed.run.manifest.invalid)
    assert {row["round"] for row in killed.other} == {0, 1}
    assert {row["status"] for row in killed.other} == {"ok"}
