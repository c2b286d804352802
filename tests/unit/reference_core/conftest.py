"""Tiny random checkpoints, written by transformers, and a loop that drives an engine to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine

VOCAB_SIZE = 320

# Llama 3.1's numbers, shrunk with the context so that positions of a short test fall into all three regimes.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10_000.0,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "mqa_tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "llama3_rope": {"rope_parameters": LLAMA3_ROPE},
    "linear_rope": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide_heads": {"head_dim": 32},
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Variant name to its checkpoint folder; made once per session."""
    made: dict[str, Path] = {}

    def make(variant: str) -> Path:
        if variant not in made:
            folder = tmp_path_factory.mktemp(variant)
            _write_checkpoint(folder, VARIANTS[variant])
            made[variant] = folder
        return made[variant]

    return make


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., None]:
    return _write_checkpoint


def _write_checkpoint(folder: Path, settings: Mapping[str, Any], **save_options: Any) -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(20)
    config = LlamaConfig(
        **{
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            # Ten times the usual spread: logits are far apart, so that rounding does not decide a greedy choice.
            "initializer_range": 0.2,
            **settings,
        }
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # transformers starts them at zero, which would hide that they are added
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, **save_options)


@pytest.fixture(scope="session")
def make_engine(checkpoint: Callable[[str], Path]) -> Callable[..., Engine]:
    def make(variant: str = "gqa", **settings: Any) -> Engine:
        return Engine(EngineConfig(model_path=checkpoint(variant), **{"block_size": 4, **settings}))

    return make


@pytest.fixture(scope="session")
def drain() -> Callable[[Engine], dict[str, list[int]]]:
    """Step until there is no work; token ids per request. Fails if the engine stalls or loses a block on the way."""

    def run(engine: Engine, max_steps: int = 10_000) -> dict[str, list[int]]:
        tokens: dict[str, list[int]] = {}
        for _ in range(max_steps):
            if not engine.has_work():
                break
            for output in engine.step():
                tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
            engine.check_integrity()
        assert not engine.has_work(), "the engine does not come to an end"
        assert engine.stats().num_blocks_used == 0
        return tokens

    return run
