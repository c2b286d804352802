"""What a benchmark may quietly lose: the first answer, and the sample that its own aggregation choked on."""

from __future__ import annotations

import json
from typing import Any

from llmbench.results.run_directory import Run

# Imported by every Python process at its start: here, statistics that always fail.
BROKEN_STATISTICS = """
import sys
if "llmbench" in " ".join(sys.orig_argv) and "recorder_process" not in " ".join(sys.orig_argv):
    import llmbench.results.summary
    def summarise(*arguments, **options):
        raise ZeroDivisionError("statistics broke")
    llmbench.results.summary.summarise = summarise
"""


def test_the_engine_is_asked_nothing_that_is_not_a_row(workplace: Any) -> None:
    # Nobody generates before the first request, which may be the cold one.
    traffic = {"requests": 5, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 1}}
    log = workplace.folder / "sent.jsonl"
    engine = {"simulated": {"settings": {"ttft_ms": 2, "itl_ms": 1, "log": str(log)}}}
    done = workplace.run(
        "run", workplace.workload(engines=[engine], traffic=traffic), "--out", "out", "--allow-invalid"
    )
    assert done.returncode == 0, done.stderr
    answered = [json.loads(line)["request_id"] for line in log.read_text().splitlines()]
    run = Run.open(workplace.folder / "out")
    assert answered == run.requests["request_id"].to_pylist()
    assert len(answered) == 5


def test_statistics_that_fail_fail_the_run_and_lose_no_row(workplace: Any) -> None:
    (workplace.folder / "sitecustomize.py").write_text(BROKEN_STATISTICS)
    env = {"PYTHONPATH": str(workplace.folder)}
    done = workplace.run("run", workplace.workload(), "--out", "out", "--allow-invalid", env=env)
    assert done.returncode not in (0, 130)
    assert "statistics broke" in done.stderr
    run = Run.open(workplace.folder / "out")
    assert run.finished
    assert run.requests["status"].to_pylist() == ["ok"] * 9
    assert run.chunks.num_rows > 9
