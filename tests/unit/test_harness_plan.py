"""The plan: the same in any process, rounds interleaved, every engine of a round asked the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.harness.plan import RunPlan, Trial, level_name, plan
from llmbench.workloads.loader import loads
from llmbench.workloads.spec import WorkloadSpec

PROMPTS = [{"prompt": f"Question {number}: why?", "max_tokens": number + 1} for number in range(20)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in PROMPTS))
    return path


def workload(
    rows: Path, rounds: int = 3, engines: str = "[a, b]", arrivals: str = "{kind: poisson, rate: 8}", extra: str = ""
) -> WorkloadSpec:
    return loads(
        f"""
name: planned
model: anything
engines: {engines}
prompts: {{kind: jsonl, path: {rows}}}
traffic: {{requests: 6, warmup_requests: 2, arrivals: {arrivals}{extra}}}
measure: {{rounds: {rounds}}}
"""
    )


def laid_out(spec: WorkloadSpec) -> RunPlan:
    return plan(spec, spec.engines, None, "some-model")


def asked(trial: Trial) -> list[tuple[int | None, str | None, int]]:
    return [(r.due_offset_ns, r.generation.prompt, r.generation.max_tokens) for r in (*trial.warmup, *trial.requests)]


def test_rounds_go_a_b_b_a(rows: Path) -> None:
    trials = laid_out(workload(rows, rounds=3)).trials
    assert [(trial.round, trial.engine.label) for trial in trials] == [
        (0, "a"),
        (0, "b"),
        (1, "b"),
        (1, "a"),
        (2, "a"),
        (2, "b"),
    ]


def test_every_engine_of_a_round_is_asked_the_same_at_the_same_times(rows: Path) -> None:
    trials = laid_out(workload(rows, rounds=2)).trials
    assert asked(trials[0]) == asked(trials[1])
    assert asked(trials[2]) == asked(trials[3])


def test_rounds_differ_in_salt_and_schedule_and_not_in_length(rows: Path) -> None:
    first, second = laid_out(workload(rows, rounds=2, engines="[a]")).trials
    for (due, prompt, length), (other_due, other_prompt, other_length) in zip(
        asked(first)[2:], asked(second)[2:], strict=True
    ):
        assert due != other_due
        assert prompt != other_prompt
        assert length == other_length


def test_a_round_s_schedule_is_not_another_seed_s_first_round(rows: Path) -> None:
    def schedule(seed: int, round_index: int) -> list[int | None]:
        spec = workload(rows, rounds=2, engines="[a]")
        seeded = spec.model_copy(update={"seeds": spec.seeds.model_copy(update={"schedule": seed})})
        return [request.due_offset_ns for request in laid_out(seeded).trials[round_index].requests]

    assert schedule(0, 1) != schedule(1, 0)
    assert schedule(0, 0) == schedule(0, 0)


def test_a_closed_loop_has_no_due_times_and_a_concurrency(rows: Path) -> None:
    trial = laid_out(workload(rows, arrivals="{kind: closed, concurrency: 3}")).trials[0]
    assert {request.due_offset_ns for request in trial.requests} == {None}
    assert (trial.concurrency, trial.scheduled_ns, trial.level) == (3, None, "closed 3")


def test_max_concurrency_bounds_an_open_loop(rows: Path) -> None:
    assert laid_out(workload(rows)).trials[0].concurrency is None
    assert laid_out(workload(rows, extra=", max_concurrency: 5")).trials[0].concurrency == 5


@pytest.mark.parametrize(
    ("arrivals", "name"),
    [
        ("{kind: poisson, rate: 8}", "poisson 8/s"),
        ("{kind: gamma, rate: 0.5, shape: 2}", "gamma 0.5/s"),
        ("{kind: burst}", "burst"),
        ("{kind: ramp, start_rate: 1, end_rate: 16}", "ramp 1-16/s"),
    ],
)
def test_a_level_says_the_load_in_a_few_words(rows: Path, arrivals: str, name: str) -> None:
    assert level_name(workload(rows, arrivals=arrivals)) == name


def test_an_engine_may_name_its_own_model(rows: Path) -> None:
    trials = laid_out(workload(rows, rounds=1, engines="[a, {b: {model: other}}]")).trials
    assert [trial.requests[0].generation.model for trial in trials] == ["some-model", "other"]
    assert laid_out(workload(rows, rounds=1)).prompts_digest == laid_out(workload(rows, rounds=1)).prompts_digest


LABELS = st.lists(st.text(alphabet="ab-é /r0☃", min_size=1, max_size=6), min_size=1, max_size=5, unique=True)


@given(labels=LABELS, rounds=st.integers(1, 3))
def test_request_ids_are_unique_and_safe_in_a_header(rows: Path, labels: list[str], rounds: int) -> None:
    spec = workload(rows, rounds=rounds, engines="[a]")
    engines = [spec.engines[0].model_copy(update={"label": label}) for label in labels]
    trials = plan(spec, engines, None, "some-model").trials
    ids = [request.request_id for trial in trials for request in (*trial.warmup, *trial.requests)]
    assert len(set(ids)) == len(ids) == rounds * len(labels) * 8
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", request_id) for request_id in ids)


def test_the_plan_is_byte_identical_in_any_process(rows: Path) -> None:
    code = """
import hashlib, sys
from llmbench.harness.plan import plan
from llmbench.workloads.loader import loads
spec = loads(sys.stdin.read())
laid_out = plan(spec, spec.engines, None, "some-model")
print(hashlib.sha256(repr(laid_out).encode()).hexdigest(), laid_out.prompts_digest)
"""
    text = json.dumps(workload(rows).model_dump(mode="json"))
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(said) == 1
