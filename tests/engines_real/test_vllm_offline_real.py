"""`LLM.generate` of the real vLLM beside the bundled engine's stream: the same answers, in one batch, without a TTFT.

llmbench engines install vllm && pytest tests/engines_real/test_vllm_offline_real.py
"""

from __future__ import annotations

import pytest

from llmbench.engines import registry
from llmbench.engines.environments import environment, install_command
from llmbench.harness.assemble import assemble
from llmbench.harness.session import run_session
from llmbench.results.answer import answer
from llmbench.results.run import Run
from llmbench.results.summary import summarise
from llmbench.workloads import loader

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(900)]

REQUESTS, OUTPUT_TOKENS = 8, 12
WORKLOAD = f"""
name: offline-beside-reference
model: synthetic:llama-20m
engines:
  - reference: {{settings: {{dtype: float32, threads: 1}}}}
  - vllm-offline: {{settings: {{engine: {{dtype: float32, enforce_eager: true, max_model_len: 512}}}}}}
prompts:
  kind: synthetic
  prompt_tokens: {{kind: uniform, min: 16, max: 64}}
  output_tokens: {OUTPUT_TOKENS}
traffic:
  requests: {REQUESTS}
  warmup_requests: 1
  arrivals: {{kind: burst}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    wanted = environment(registry.recipes()["vllm-offline"])
    if not wanted.is_complete:
        pytest.skip(f"vllm is not installed here: {install_command(wanted)}")
    pytest.importorskip("torch", reason="the extra llmbench[reference] is not installed")
    outcome = run_session(assemble(loader.loads(WORKLOAD)), tmp_path_factory.mktemp("offline") / "run")
    return Run.open(outcome.path)


def test_the_answers_are_the_streamed_ones(run: Run) -> None:
    rows = [row for row in run.requests.to_pylist() if not row["warmup"]]
    assert {row["error"] for row in rows} == {None}
    assert {row["output_tokens"] for row in rows} == {OUTPUT_TOKENS}
    streamed, offline = (
        {row["index"]: row["output_sha256"] for row in rows if row["engine"] == engine}
        for engine in ("reference", "vllm-offline")
    )
    assert len(streamed) == REQUESTS
    assert offline == streamed


def test_what_it_cannot_show_is_not_shown(run: Run) -> None:
    rows = {row.engine: row for row in summarise(run).rows}
    offline = rows["vllm-offline"]
    assert [offline.distribution(name) for name in ("ttft", "tpot", "itl")] == [None] * 3
    assert offline.distribution("e2e") is not None
    assert offline.total("output_throughput") is not None
    assert rows["reference"].distribution("ttft") is not None
    assert run.manifest.engines[1].details["streaming"] is False
    assert run.manifest.engines[1].version == "0.32.0"
    assert "vllm-offline E2E" in answer(run)[0]
