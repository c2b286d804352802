"""The whole engine on a device: it answers as on the CPU, with graphs and without."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.models.synthetic import create
from llmbench.reference_engine.sampling import SamplingParams


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create("synthetic:llama-20m", out=tmp_path_factory.mktemp("gpu") / "checkpoint")


def answers(checkpoint: Path, temperature: float = 0.0, **settings: Any) -> dict[str, list[int]]:
    engine = Engine(EngineConfig(model_path=checkpoint, max_num_seqs=12, **settings))
    rng = random.Random(4)
    waiting = [(f"r{i}", [rng.randrange(10, 1000) for _ in range(rng.randint(1, 200))]) for i in range(20)]
    tokens: dict[str, list[int]] = {name: [] for name, _ in waiting}
    while engine.has_work() or waiting:
        for name, prompt in waiting[:3]:
            params = SamplingParams(max_tokens=24, temperature=temperature, top_p=0.9, seed=7, ignore_eos=True)
            engine.add_request(name, prompt, params)
        del waiting[:3]
        for output in engine.step():
            tokens[output.request_id] += output.new_token_ids
        engine.check_integrity()
    return tokens


def num_equal(ours: dict[str, list[int]], theirs: dict[str, list[int]]) -> int:
    return sum(ours[name] == theirs[name] for name in theirs)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_greedy_answers_are_the_cpu_s(checkpoint: Path, kernels: str) -> None:
    """In float32; one answer in twenty may part ways after a near tie."""
    assert num_equal(answers(checkpoint, device="cuda", kernels=kernels), answers(checkpoint, kernels="torch")) >= 19


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization": "int8-weight-only", "kv_cache_dtype": "int8"},
        {"quantization": "fp8", "kv_cache_dtype": "fp8"},
    ],
    ids=lambda settings: settings["kv_cache_dtype"],
)
def test_quantised_weights_and_caches_answer_as_on_the_cpu(checkpoint: Path, settings: dict[str, str]) -> None:
    """The first tokens; later on a key that was rounded to its other neighbour may turn a near tie."""
    ours, theirs = answers(checkpoint, device="cuda", **settings), answers(checkpoint, kernels="torch", **settings)
    assert sum(ours[name][:4] == theirs[name][:4] for name in theirs) >= 17


def test_graphs_change_no_answer(checkpoint: Path) -> None:
    plain, graphs = (answers(checkpoint, device="cuda", graphs=graphs) for graphs in ("off", "cuda"))
    assert num_equal(graphs, plain) >= 19


def test_sampled_answers_repeat(checkpoint: Path) -> None:
    first, second = (answers(checkpoint, temperature=1.0, device="cuda") for _ in range(2))
    assert first == second


def test_preempted_blocks_come_back_from_the_host(checkpoint: Path) -> None:
    tight = {"device": "cuda", "num_blocks": 60, "max_model_len": 256}
    assert num_equal(answers(checkpoint, preemption="swap", **tight), answers(checkpoint, device="cuda")) >= 19
