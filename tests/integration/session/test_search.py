"""`llmbench search` against an engine whose limit is known."""

from __future__ import annotations

from typing import Any

import pytest
from killed_engines import started_engines
from workplace import eventually, num_stored

from llmbench.results.objectives import meets_slo
from llmbench.results.run_directory import Run
from llmbench.results.samples import samples

# One request at a time and 20 ms for each: 50/s at most, which constant arrivals reach without waiting.
QUEUE: dict[str, Any] = {
    "engines": [{"simulated": {"settings": {"ttft_ms": 20}}}],
    "prompts": {"kind": "text", "path": "prompts.txt", "output_tokens": 1},
    "traffic": {
        "requests": 60,
        "warmup_requests": 1,
        "max_concurrency": 1,
        "arrivals": {"kind": "constant", "rate": 20},
    },
    "measure": {"slo": {"e2e_ms": 100}},
}
TALK = {"kind": "conversations", "prompt_tokens": 4, "output_tokens": 1, "think_s": 0}


def test_the_highest_load_is_found_and_every_trial_is_recorded(workplace: Any) -> None:
    asked = ("search", workplace.workload(**QUEUE), "--highest", "200", "--tolerance", "0.5", "--max-trials", "10")
    done = workplace.run(*asked, "--out", "out")
    assert done.returncode in (0, 5), done.stderr
    run = Run.open(workplace.folder / "out")
    [found] = run.manifest.search
    assert found.missed is not None, "far beyond 50/s, where answers come ever later"
    assert found.missed <= 160
    assert found.met is None or found.met < 60
    assert f"simulated: {found.sentence}" in done.stdout
    assert "at 0.95 confidence" in found.sentence
    assert done.stdout.splitlines()[-1] == "out/report.html"
    report = (workplace.folder / "out" / "report.html").read_text()
    assert found.sentence in report
    trials = run.manifest.trials
    assert sum(level.num_trials for level in found.tried) == len(trials)
    assert {trial.level for trial in trials} == {f"constant {level.load:g}/s" for level in found.tried}
    ids = run.requests["request_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 61 * len(trials)
    for level in found.tried:
        assert level.num_requests == 60 * level.num_trials
        of_level = samples(run, "simulated", f"constant {level.load:g}/s")
        assert of_level is not None
        met = meets_slo(of_level)
        assert met is not None
        assert int(met.sum()) == level.num_met, "the report counts as the search did"


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({"measure": {}}, [], "measure.slo: nothing to meet"),
        ({"traffic": {"arrivals": {"kind": "burst"}}}, [], "arrivals of kind burst have no one number"),
        ({"traffic": {"arrivals": {"kind": "poisson", "rate": 1}, "sweep": [1, 2]}}, [], "traffic.sweep"),
        ({"request": {"stream": False}, "measure": {"slo": {"ttft_ms": 9}}}, [], "without request.stream"),
        ({"traffic": {"requests": 2}}, [], "give at least 17"),
        ({}, ["--workers", "0"], "--workers 0: give a whole number from 1"),
        ({}, ["--attainment", "1"], "--attainment 1: give a share between 0 and 1"),
        ({}, ["--lowest", "30"], "give loads above 0 that rise in this order"),
        ({"traffic": {"arrivals": {"kind": "closed", "concurrency": 2}}}, ["--start", "2.5"], "whole number"),
        (
            {"traffic": {"requests": 20, "arrivals": {"kind": "closed", "concurrency": 32}}},
            [],
            "a trial's 20 requests cannot keep 32 requests in flight; give more requests, or --start 20 or lower",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(workplace: Any, changes: Any, arguments: list[str], said: str) -> None:
    done = workplace.run("search", workplace.workload(**{**QUEUE, **changes}), *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workplace.folder / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "widest", "filled_by"),
    [
        ({}, 20, "20 requests"),
        ({"model": "synthetic:llama-tiny", "prompts": {**TALK, "turns": 4}}, 5, "5 conversations"),
    ],
    ids=["requests", "conversations"],
)
def test_no_load_is_tried_that_a_trial_cannot_fill(
    workplace: Any, changes: dict[str, Any], widest: int, filled_by: str
) -> None:
    traffic = {"requests": 20, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 4}}
    engines = [{"simulated": {"settings": {"ttft_ms": 1}}}]
    workload = workplace.workload(**{**QUEUE, "traffic": traffic, "engines": engines, **changes})
    done = workplace.run("search", workload, "--out", "out")
    assert done.returncode in (0, 5), done.stderr
    [found] = Run.open(workplace.folder / "out").manifest.search
    assert max(level.load for level in found.tried) == widest
    assert found.sentence.endswith(f"A trial's {filled_by} fill no more than {widest} slots: raise traffic.requests.")


def test_a_bound_below_what_a_trial_fills_is_the_users_own(workplace: Any) -> None:
    traffic = {"requests": 20, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 4}}
    engines = [{"simulated": {"settings": {"ttft_ms": 1}}}]
    workload = workplace.workload(**{**QUEUE, "traffic": traffic, "engines": engines})
    done = workplace.run("search", workload, "--highest", "6", "--out", "out")
    assert done.returncode in (0, 5), done.stderr
    [found] = Run.open(workplace.folder / "out").manifest.search
    assert [level.load for level in found.tried] == [4, 6]
    assert "slots" not in found.sentence


def test_an_engine_that_does_not_start_ends_the_search(workplace: Any) -> None:
    engines = [{"openai": {"url": "http://127.0.0.1:9"}}]
    done = workplace.run("search", workplace.workload(**{**QUEUE, "engines": engines}))
    assert done.returncode == 4
    assert "nobody answers" in done.stderr


def test_a_search_ends_for_an_engine_that_died_and_is_not_to_be_restarted(workplace: Any) -> None:
    engines = [{"simulated": {"settings": {"ttft_ms": 20}, "restart": False}}]
    measure = {**QUEUE["measure"], "rounds": 2}
    workload = workplace.workload(**{**QUEUE, "engines": engines, "measure": measure})
    process = workplace.start("search", workload, "--max-trials", "6", "--out", "out")
    eventually(lambda: num_stored(workplace.folder / "out") >= 5 or process.poll() is not None, 60)
    for engine in started_engines(workplace):
        engine.kill()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 5, stderr
    run = Run.open(workplace.folder / "out")
    [found] = run.manifest.search
    assert [level.num_trials for level in found.tried] == [1], "what was seen of the load that ran counts for no other"
    assert len(run.manifest.trials) == 1
    [died] = [reason for reason in run.manifest.invalid if "during" in reason]
    assert "during simulated, constant 20/s, trial 1;" in died, "a search has trials; rounds are not its own"


def test_a_search_sends_from_several_processes(workplace: Any) -> None:
    traffic = {"requests": 20, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 2}}
    workload = workplace.workload(**{**QUEUE, "traffic": traffic})
    done = workplace.run("search", workload, "--workers", "2", "--max-trials", "2", "--out", "out")
    assert done.returncode in (0, 5), done.stderr
    run = Run.open(workplace.folder / "out")
    assert [len(trial.instrument.workers) for trial in run.manifest.trials if trial.instrument is not None] == [2, 2]
    assert run.requests["status"].to_pylist() == ["ok"] * 40
