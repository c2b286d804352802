"""A load sent by several processes: one schedule, one clock, and no request lost with a worker."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from workplace import load_workers

from llmbench.results.run_directory import Run, RunError

LENIENT = "--allow-invalid"


def measured(folder: Path) -> tuple[Run, dict[str, list[Any]]]:
    run = Run.open(folder)
    assert run.finished
    rows = run.requests.filter(~run.requests["warmup"].to_numpy()).sort_by("index")
    return run, rows.to_pydict()


def due_offsets(folder: Path) -> list[int]:
    run, rows = measured(folder)
    [trial] = run.manifest.trials
    return [due_ns - trial.start_ns for due_ns in rows["due_ns"]]


def test_the_schedule_is_the_same_whatever_the_number_of_workers(workplace: Any) -> None:
    traffic = {"requests": 40, "warmup_requests": 1, "arrivals": {"kind": "poisson", "rate": 50}}
    workload = workplace.workload(traffic=traffic)
    for num_workers in ("1", "2", "3"):
        done = workplace.run("run", workload, "--workers", num_workers, "--out", f"out{num_workers}", LENIENT)
        assert done.returncode == 0, done.stderr
    assert due_offsets(workplace.folder / "out1") == due_offsets(workplace.folder / "out2")
    assert due_offsets(workplace.folder / "out1") == due_offsets(workplace.folder / "out3")
    run, rows = measured(workplace.folder / "out3")
    assert rows["status"] == ["ok"] * 40
    assert rows["output_tokens"] == [5] * 40
    [trial] = run.manifest.trials
    instrument = trial.instrument
    assert instrument is not None
    assert len(instrument.workers) == 3
    assert instrument.send_lag is not None
    assert instrument.send_lag.n == 40
    assert sum(worker.send_lag.n for worker in instrument.workers if worker.send_lag is not None) == 40
    assert instrument.num_chunks == sum(worker.num_chunks or 0 for worker in instrument.workers)
    largest = max(worker.send_lag.max_ns or 0 for worker in instrument.workers if worker.send_lag is not None)
    assert instrument.send_lag.max_ns == largest


def test_a_bound_on_requests_in_flight_holds_over_all_workers(workplace: Any) -> None:
    traffic = {"requests": 30, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 3}}
    done = workplace.run("run", workplace.workload(traffic=traffic), "--workers", "2", "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    _, rows = measured(workplace.folder / "out")
    assert rows["status"] == ["ok"] * 30
    marks = sorted([(sent, 1) for sent in rows["sent_ns"]] + [(end, -1) for end in rows["end_ns"]])
    in_flight = 0
    for _, change in marks:
        in_flight += change
        assert in_flight <= 3


def test_conversations_go_on_in_their_workers(workplace: Any) -> None:
    talk = {"kind": "conversations", "turns": 2, "prompt_tokens": 8, "output_tokens": 3, "think_s": 0.01}
    traffic = {"requests": 8, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 2}}
    workload = workplace.workload(model="synthetic:llama-tiny", prompts=talk, traffic=traffic)
    done = workplace.run("run", workload, "--workers", "2", "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    _, rows = measured(workplace.folder / "out")
    assert rows["status"] == ["ok"] * 8
    for turn in (1, 3, 5, 7):
        assert rows["due_ns"][turn] == rows["end_ns"][turn - 1] + 10_000_000


def test_a_dead_worker_s_requests_are_failures_and_the_run_is_invalid(workplace: Any, eventually: Any) -> None:
    traffic = {"requests": 60, "warmup_requests": 0, "arrivals": {"kind": "constant", "rate": 12}}
    process = workplace.start("run", workplace.workload(traffic=traffic), "--workers", "2", "--out", "out")
    eventually(lambda: is_answered(workplace.folder / "out"))
    victim, other = load_workers(process)
    victim.kill()
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 5, stderr
    assert "Traceback" not in stderr
    run, rows = measured(workplace.folder / "out")
    assert len(rows["status"]) == 60
    lost = [index for index, kind in enumerate(rows["error_kind"]) if kind == "cancelled"]
    assert lost
    assert len({index % 2 for index in lost}) == 1, "only those of the worker that died"
    assert all("was ended by SIGKILL" in rows["error"][index] for index in lost)
    assert rows["error"][lost[-1]] == f"This request was not sent: load worker {lost[-1] % 2 + 1} was ended by SIGKILL."
    assert rows["status"].count("ok") >= 30
    assert any("of its requests were lost" in reason for reason in run.manifest.invalid)
    assert not other.is_running()


def test_without_any_worker_left_later_rounds_are_rows_that_say_so(workplace: Any, eventually: Any) -> None:
    traffic = {"requests": 40, "warmup_requests": 0, "arrivals": {"kind": "constant", "rate": 10}}
    workload = workplace.workload(traffic=traffic, measure={"rounds": 2})
    process = workplace.start("run", workload, "--workers", "2", "--out", "out")
    eventually(lambda: is_answered(workplace.folder / "out"))
    for worker in load_workers(process):
        worker.kill()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 5, stderr
    assert "Traceback" not in stderr
    _, rows = measured(workplace.folder / "out")
    told = [error for number, error in zip(rows["round"], rows["error"], strict=True) if number == 1]
    assert told == ["This request was not sent: no load worker is left."] * 40


def test_ctrl_c_stops_all_workers(workplace: Any, eventually: Any) -> None:
    traffic = {"requests": 400, "warmup_requests": 0, "arrivals": {"kind": "constant", "rate": 20}}
    process = workplace.start("run", workplace.workload(traffic=traffic), "--workers", "2", "--out", "out")
    eventually(lambda: is_answered(workplace.folder / "out"))
    workers = load_workers(process)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    run, rows = measured(workplace.folder / "out")
    assert run.manifest.status == "interrupted"
    assert 0 < rows["status"].count("ok") < 400
    assert not any(worker.is_running() for worker in workers)


def test_workers_end_with_a_killed_harness(workplace: Any, eventually: Any) -> None:
    traffic = {"requests": 400, "warmup_requests": 0, "arrivals": {"kind": "constant", "rate": 20}}
    process = workplace.start("run", workplace.workload(traffic=traffic), "--workers", "2", "--out", "out")
    eventually(lambda: is_answered(workplace.folder / "out"))
    workers = load_workers(process)
    process.kill()
    process.communicate()
    eventually(lambda: not any(worker.is_running() for worker in workers))


@pytest.mark.parametrize("asked", ["0", "many", "1000", "-1"])
def test_a_wrong_number_of_workers_is_refused(workplace: Any, asked: str) -> None:
    done = workplace.run("run", workplace.workload(), f"--workers={asked}")
    assert done.returncode == 2
    assert "give a whole number from 1 to 64, or auto" in done.stderr


def is_answered(folder: Path) -> bool:
    """Whether the run there has stored some answers already."""
    try:
        return Run.open(folder).requests.num_rows >= 3
    except RunError:
        return False
