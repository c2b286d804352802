"""vLLM with fewer bits and with drafts: a checkpoint quantised here, a cache rounded there, n-gram drafts.

llmbench engines install vllm && pytest tests/engines_real/test_vllm_quantised_real.py -s
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmbench.engines import registry
from llmbench.engines.environments import environment, install_command
from llmbench.harness.assemble import assemble
from llmbench.harness.session import run_session
from llmbench.results.equal_work import unequal_work
from llmbench.results.output_equality import Equality, equalities
from llmbench.results.run import Run
from llmbench.results.samples import each_samples
from llmbench.results.server_side import server_side
from llmbench.workloads import loader

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(1500)]

REQUESTS = 12
# A trained model: its greedy answers bear rounding, those of random weights change with every bit.
MODEL = "bundled:python-target"
SETTINGS = {"enforce_eager": True, "max_model_len": 256}
ENGINES = {
    "vllm": {"dtype": "float32"},
    "drafts": {
        "dtype": "float32",
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3},
    },
    "fp8-cache": {"dtype": "bfloat16", "kv_cache_dtype": "fp8"},
}
WORKLOAD = """
name: fewer-bits
model: {model}
engines: {engines}
prompts: {{kind: text, path: {prompts}, prompt_tokens: 48, output_tokens: 24}}
request: {{token_ids: true}}
traffic: {{requests: {requests}, warmup_requests: 1, arrivals: {{kind: closed, concurrency: 2}}}}
measure: {{rounds: 1}}
"""


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    wanted = environment(registry.recipes()["vllm"])
    if not wanted.is_complete:
        pytest.skip(f"vllm is not installed here: {install_command(wanted)}")
    pytest.importorskip("torch", reason="the extra llmbench[reference] is not installed")


def vllm(label: str, **settings: Any) -> dict[str, Any]:
    return {"vllm": {"label": label, "settings": SETTINGS | settings, "startup_timeout_s": 600}}


def measured(folder: Path, model: str, engines: list[dict[str, Any]]) -> Run:
    """A run beside the bundled engine, on what the bundled model was trained to go on with: Python's own source."""
    engines = [{"reference": {"settings": {"dtype": "float32"}}}, *engines]
    spec = loader.loads(
        WORKLOAD.format(model=model, engines=json.dumps(engines), prompts=subprocess.__file__, requests=REQUESTS)
    )
    return Run.open(run_session(assemble(spec), folder / "run").path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    engines = [vllm(label, **settings) for label, settings in ENGINES.items()]
    return measured(tmp_path_factory.mktemp("fewer-bits"), MODEL, engines)


def found(run: Run) -> dict[str, Equality]:
    return {each.engine: each for each in equalities(run)}


def test_each_answers_everything_and_says_what_it_computes_with(run: Run) -> None:
    rows = [row for row in run.requests.to_pylist() if not row["warmup"]]
    assert {row["error"] for row in rows} == {None}
    assert len(rows) == (1 + len(ENGINES)) * REQUESTS
    assert {row["token_source"] for row in rows if row["engine"] in ENGINES} == {"token_ids"}
    details = {engine.label: engine.details for engine in run.manifest.engines}
    assert details["fp8-cache"]["kv_cache_dtype"].startswith("fp8")
    assert "Another dtype of the KV cache" in " ".join(unequal_work(run))


def test_drafts_are_taken_and_change_no_token(run: Run) -> None:
    [samples] = [samples for samples in each_samples(run) if samples.engine == "drafts"]
    side = server_side(samples)
    drafted, accepted = side.increase("draft_tokens"), side.increase("accepted_tokens")
    assert drafted
    assert accepted
    assert accepted < drafted
    for label in ("vllm", "drafts"):
        assert found(run)[label].share == 1.0


def begun_alike(equality: Equality) -> list[int]:
    """How many tokens each answer has in common with the bundled engine's, fewest first."""
    assert equality.num_both == REQUESTS
    print(equality.engine, equality.num_identical, [each.places for each in equality.divergences])
    assert len(equality.divergences) == REQUESTS - equality.num_identical
    for each in equality.divergences:
        assert each.ruler == "token ids"
        assert each.places[0].token_id != each.places[1].token_id
    return sorted([each.places[0].token for each in equality.divergences] + [24] * equality.num_identical)


def test_a_rounded_cache_changes_some_answers_and_each_is_found_to_the_token(run: Run) -> None:
    # It is the same model: most answers begin alike.
    assert begun_alike(found(run)["fp8-cache"])[REQUESTS // 2] >= 4


def test_one_quantised_checkpoint_is_served_by_both(tmp_path: Path) -> None:
    """Made by the bundled engine, in compressed-tensors' W4A16: vLLM computes with it as it is stored."""
    folder = tmp_path / "python-target-w4a16"
    command = [sys.executable, "-m", "llmbench.reference_engine", "models", "quantize", MODEL, "--out", str(folder)]
    subprocess.run([*command, "--windows", "8"], check=True, capture_output=True)
    run = measured(tmp_path, str(folder), [vllm("vllm", dtype="bfloat16")])
    rows = [row for row in run.requests.to_pylist() if not row["warmup"]]
    assert {row["error"] for row in rows} == {None}
    details = {engine.label: engine.details for engine in run.manifest.engines}
    assert details["reference"]["quantization"] == "int4-weight-only"
    assert details["vllm"]["quantization"] == "compressed-tensors"
    # The bundled engine's floats are float32, vLLM's bfloat16.
    assert begun_alike(found(run)["vllm"])[REQUESTS // 2] >= 2
