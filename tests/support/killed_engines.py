"""Runs in which an engine gets a SIGKILL at a chosen moment, beside another engine that is left alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import psutil
from workplace import Workplace, eventually, num_stored

from llmbench.results.run import Run
from llmbench.results.run_directory import Run as Stored

Moment = Literal["loading", "idle", "mid-stream"]

OTHER = {"simulated": {"label": "other", "settings": {"ttft_ms": 5, "itl_ms": 3}}}
# Requests with seconds between them, of a few tokens; and streams of which two are always under way.
TRAFFIC: dict[Moment, dict[str, Any]] = {
    "loading": {"requests": 3, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 2}},
    "idle": {"requests": 4, "warmup_requests": 1, "arrivals": {"kind": "constant", "rate": 0.4}},
    "mid-stream": {"requests": 10, "warmup_requests": 1, "arrivals": {"kind": "closed", "concurrency": 2}},
}
# From the third answer, or from the start, to the signal: between two requests, or in the middle of two streams.
DELAY_S = 0.1


@dataclass(frozen=True)
class Killed:
    """How the run ended. `victim` has one list of rows per round, warm-up left out; `other` the other engine's rows."""

    run: Run
    code: int
    stdout: str
    stderr: str
    victim: list[list[dict[str, Any]]]
    other: list[dict[str, Any]]


def run_and_kill(
    workplace: Workplace,
    engine: str,
    moment: Moment,
    *,
    model: str,
    rounds: int = 1,
    output_tokens: int = 120,
    timeout_s: float = 90.0,
    **options: Any,
) -> Killed:
    """Run `engine` (labelled victim) and then `other`, and kill the first process that was started as `engine`.

    Asserts that nothing is left alive afterwards.
    """
    workload = workplace.workload(
        model=model,
        engines=[{engine: {"label": "victim", **options}}, OTHER],
        prompts={
            "kind": "text",
            "path": "prompts.txt",
            "prompt_tokens": 16,
            "output_tokens": output_tokens if moment == "mid-stream" else 4,
        },
        traffic=TRAFFIC[moment],
        measure={"rounds": rounds},
    )
    folder = workplace.folder / "out"
    process = workplace.start("run", workload, "--out", "out")
    try:
        if moment == "loading":
            eventually(lambda: bool(started_engines(workplace)), timeout_s)
        else:
            eventually(lambda: num_stored(folder) >= 3 or process.poll() is not None, timeout_s)
        time.sleep(DELAY_S)
        if process.poll() is None:
            [victim] = started_engines(workplace)
            victim.kill()
        stdout, stderr = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    eventually(lambda: workplace.engine_processes() == [])
    run = Stored.open(folder)
    rows = [row for row in run.requests.to_pylist() if not row["warmup"]]
    return Killed(
        run=run,
        code=process.returncode,
        stdout=stdout,
        stderr=stderr,
        victim=[
            [row for row in rows if row["engine"] == "victim" and row["round"] == number] for number in range(rounds)
        ],
        other=[row for row in rows if row["engine"] == "other"],
    )


def assert_killed_while_loading(killed: Killed) -> None:
    assert killed.code == 4, killed.stderr
    assert "victim was ended by signal 9 before it was ready" in killed.stderr
    assert "victim did not start; other was measured." in killed.stdout
    assert killed.victim == [[]]
    _assert_others_measured(killed)


def assert_killed_while_serving(killed: Killed, *kinds: str) -> None:
    """The failures of the first round are of `kinds`, the first of which is there; later rounds have none."""
    assert killed.code == 5, killed.stderr
    first, *later = killed.victim
    assert {row["status"] for row in first} == {"ok", "failed"}
    failures = {row["error_kind"] for row in first if row["status"] == "failed"}
    assert {kinds[0]} <= failures <= {*kinds}
    assert any("victim was ended by signal 9 during victim" in problem for problem in killed.run.manifest.invalid)
    assert all(row["status"] == "ok" for rows in later for row in rows)
    assert [len(rows) for rows in later] == [len(first)] * len(later)
    _assert_others_measured(killed)


def _assert_others_measured(killed: Killed) -> None:
    assert killed.other
    assert {row["status"] for row in killed.other} == {"ok"}
    assert killed.run.finished
    assert (killed.run.path / "report.html").is_file()


def started_engines(workplace: Workplace) -> list[psutil.Process]:
    """The processes that were started as engines, each under its guard; empty before there is one."""
    found = []
    for process in workplace.engine_processes():
        try:
            if "llmbench.harness.guard" in process.cmdline():
                found += [child for child in process.children() if child.cmdline()]
        except psutil.NoSuchProcess:
            continue
    return found
