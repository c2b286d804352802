"""The instrument's own error, measured on an engine whose true send times are known."""

from __future__ import annotations

import json
from typing import Any

from llmbench.harness.calibration import complaint
from llmbench.harness.instrument_error import instrument_error
from llmbench.results.manifest import CalibrationManifest
from llmbench.results.run_directory import Run

POISSON = {"requests": 200, "warmup_requests": 2, "arrivals": {"kind": "poisson", "rate": 50}}
LENIENT = "--allow-invalid"


def test_200_requests_at_poisson_50_against_the_engine_s_own_log(workplace: Any) -> None:
    """Bounds that a busy machine keeps; tests/benchmarks/simulated_accuracy.py prints what an idle one reaches."""
    log = workplace.folder / "sent.jsonl"
    engine = {"simulated": {"settings": {"ttft_ms": 20, "itl_ms": 2, "log": str(log)}}}
    done = workplace.run("run", workplace.workload(engines=[engine], traffic=POISSON), "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    run = Run.open(workplace.folder / "out")
    assert run.requests["output_tokens"].to_pylist() == [5] * 202
    error = instrument_error(run, log)
    assert (error.num_answers, error.num_chunks, error.num_lost) == (200, 1000, 0)
    # The median is the instrument's; the tails belong to whoever else uses the machine.
    for errors_ns in (error.ttft_ns, error.itl_ns):
        errors_ns.sort()
        assert errors_ns[len(errors_ns) // 2] < 2_000_000


def test_calibrate_prints_the_errors_of_the_workload_s_own_schedule(workplace: Any) -> None:
    workload = workplace.workload(traffic={"requests": 30, "arrivals": {"kind": "constant", "rate": 50}})
    done = workplace.run("calibrate", workload, "--itl-ms", "2", "--json")
    assert done.returncode == 0, done.stderr
    [level] = [CalibrationManifest.model_validate(entry) for entry in json.loads(done.stdout)]
    assert (level.level, level.num_requests, level.num_chunks, level.num_lost) == ("constant 50/s", 30, 150, 0)
    assert level.ttft_error.n + level.num_unclear >= 30
    assert not (workplace.folder / "runs").exists()


def test_run_calibrate_stores_the_error_with_the_run(workplace: Any) -> None:
    done = workplace.run("run", workplace.workload(), "--out", "out", "--calibrate", LENIENT)
    assert done.returncode == 0, done.stderr
    run = Run.open(workplace.folder / "out")
    [level] = run.manifest.calibration
    assert (level.level, level.num_requests) == ("closed 4", 8)
    # As fast as the engine that was measured, of which nothing is in the rows.
    assert 3 < level.ttft_ms < 200
    assert run.requests.num_rows == 9
    said = complaint(level)
    assert said is None or said in run.manifest.problems
