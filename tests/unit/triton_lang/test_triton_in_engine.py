"""The whole engine on the Triton-language kernels, in Triton's interpreter: it answers as on the torch kernels."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import KernelsUnavailableError
from llmbench.reference_engine.models.synthetic import create
from llmbench.reference_engine.sampling import SamplingParams


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create("synthetic:llama-tiny", out=tmp_path_factory.mktemp("triton") / "checkpoint")


def answers(checkpoint: Path, max_tokens: int, **settings: Any) -> dict[str, list[int]]:
    """Prompts of 1 to 24 tokens, the first two ahead of the third, so that steps mix decodes and chunks."""
    engine = Engine(
        EngineConfig(model_path=checkpoint, max_num_batched_tokens=16, max_num_seqs=4, num_threads=1, **settings)
    )
    rng = random.Random(5)
    prompts = {f"r{length}": [rng.randrange(10, 1000) for _ in range(length)] for length in (1, 24, 9)}
    params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    tokens: dict[str, list[int]] = {name: [] for name in prompts}
    waiting = list(prompts.items())
    while engine.has_work() or waiting:
        for name, prompt in waiting[:2]:
            engine.add_request(name, prompt, params)
        del waiting[:2]
        for output in engine.step():
            tokens[output.request_id] += output.new_token_ids
    return tokens


@pytest.mark.parametrize(
    ("settings", "num_compared"),
    [
        ({}, 3),
        # A quantised input may fall to either side of a rounding, and after that texts may part ways: one decode step
        # is enough there, since the first token alone is compared.
        ({"quantization": "int4", "kv_cache_dtype": "fp8"}, 1),
        ({"quantization": "fp8", "kv_cache_dtype": "int8"}, 2),
    ],
    ids=lambda value: "-".join(value.values()) or "float32" if isinstance(value, dict) else "",
)
def test_answers_equal_those_of_the_torch_kernels(
    checkpoint: Path, settings: dict[str, str], num_compared: int
) -> None:
    max_tokens = max(2, num_compared)
    ours = answers(checkpoint, max_tokens, kernels="triton", **settings)
    theirs = answers(checkpoint, max_tokens, kernels="torch", **settings)
    assert all(len(tokens) == max_tokens for tokens in ours.values())
    same = [ours[name][:num_compared] == theirs[name][:num_compared] for name in ours]
    assert sum(same) >= len(same) - bool(settings)


def test_without_a_gpu_or_the_interpreter_they_are_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(KernelsUnavailableError, match="need device = cuda"):
        Engine(EngineConfig(model_path=checkpoint, kernels="triton"))


def test_bfloat16_is_refused_where_it_would_be_computed_wrongly(checkpoint: Path) -> None:
    with pytest.raises(KernelsUnavailableError, match="interpreter multiplies bfloat16 numbers as if"):
        Engine(EngineConfig(model_path=checkpoint, kernels="triton", dtype="bfloat16"))
