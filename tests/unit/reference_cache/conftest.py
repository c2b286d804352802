"""A tiny random checkpoint, engines on it, and a loop that drives one to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.sampling import SamplingParams

Requests = dict[str, tuple[list[int], SamplingParams]]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Seed and sliding window to the folder of a random Mistral with 64 tokens in its vocabulary; made once."""
    made: dict[tuple[int, int | None], Path] = {}

    def make(seed: int = 20, window: int | None = None) -> Path:
        pytest.importorskip("transformers")
        from transformers import MistralConfig, MistralForCausalLM

        if (seed, window) not in made:
            made[seed, window] = tmp_path_factory.mktemp(f"tiny{seed}")
            torch.manual_seed(seed)
            config = MistralConfig(
                sliding_window=window,
                vocab_size=64,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                # Ten times the usual spread: logits are far apart, so that rounding does not decide a greedy choice.
                initializer_range=0.2,
            )
            MistralForCausalLM(config).save_pretrained(made[seed, window])
        return made[seed, window]

    return make


@pytest.fixture(scope="session")
def tiny_engine(tiny_checkpoint: Callable[..., Path]) -> Callable[..., Engine]:
    def make(window: int | None = None, **settings: Any) -> Engine:
        return Engine(
            EngineConfig(model_path=tiny_checkpoint(window=window), **{"block_size": 4, "kernels": "torch", **settings})
        )

    return make


@pytest.fixture(scope="session")
def serve() -> Callable[[Engine, Requests], dict[str, list[int]]]:
    """Tokens per request. Fails if the engine stalls or loses a block on the way."""

    def run(engine: Engine, requests: Requests, max_steps: int = 5_000) -> dict[str, list[int]]:
        for request_id, (prompt, params) in requests.items():
            engine.add_request(request_id, prompt, params)
        tokens: dict[str, list[int]] = {name: [] for name in requests}
        for _ in range(max_steps):
            if not engine.has_work():
                break
            for output in engine.step():
                tokens[output.request_id] += output.new_token_ids
            engine.check_integrity()
        assert not engine.has_work(), "the engine does not come to an end"
        assert engine.stats().num_blocks_used == 0
        return tokens

    return run
