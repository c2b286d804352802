"""Logits of the paged model against transformers' LlamaForCausalLM on the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.kernels import attention_torch, dispatch
from llmbench.reference_engine.layers.rotary import inverse_frequencies
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.models.config import RopeConfig, read_rope
from llmbench.reference_engine.models.llama import DEFAULTS
from llmbench.reference_engine.models.loader import load_model
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import Scheduler
from llmbench.reference_engine.sequence import Sequence

Checkpoint = Callable[[str], Path]


def paged_logits(folder: Path, texts: list[list[int]], prompt_lens: list[int], budget: int) -> list[torch.Tensor]:
    """Logits at positions prompt_len - 1 … end of each text: prefill in chunks, then each known token as a decode."""
    model = load_model(folder, torch.float32)
    block_size = 4
    scheduler = Scheduler(BlockTables(BlockPool(64), block_size), max_num_seqs=4, max_num_batched_tokens=budget)
    cache = KVCache(model.config, 64, block_size, torch.float32)
    # What a block held before must not matter: start from numbers that would show.
    cache.data.uniform_(-50, 50, generator=torch.Generator().manual_seed(0))
    runner = ModelRunner(model, cache, dispatch.load("torch"), max_model_len=128)
    sequences = []
    for index, (text, prompt_len) in enumerate(zip(texts, prompt_lens, strict=True)):
        sequences.append(Sequence(str(index), text[:prompt_len], SamplingParams(max_tokens=len(text)), seed=0))
        scheduler.add(sequences[-1])
    collected: list[list[torch.Tensor]] = [[] for _ in texts]
    while scheduler.has_work():
        plan = scheduler.schedule()
        logits = runner.execute(plan)
        scheduler.commit(plan)
        done = [chunk.sequence for chunk in plan.chunks if chunk.sequence.num_uncomputed_tokens == 0]
        assert len(done) == len(logits)
        for sequence, row in zip(done, logits, strict=True):
            index = int(sequence.request_id)
            collected[index].append(row)
            if sequence.num_tokens == len(texts[index]):
                scheduler.remove(sequence)
            else:
                sequence.append(texts[index][sequence.num_tokens], ())
    return [torch.stack(rows) for rows in collected]


@pytest.mark.parametrize("variant", ["gqa", "mha", "mqa_tied", "llama3_rope", "linear_rope", "biases", "wide_heads"])
def test_logits_equal_transformers(variant: str, checkpoint: Checkpoint) -> None:
    """float32, max abs error < 1e-4, for three texts in one batch with prefills split at uneven places."""
    pytest.importorskip("transformers")
    from transformers import LlamaForCausalLM

    generator = torch.Generator().manual_seed(4)
    texts = [torch.randint(0, 320, (length,), generator=generator).tolist() for length in (60, 33, 9)]
    prompt_lens = [47, 32, 1]
    ours = paged_logits(checkpoint(variant), texts, prompt_lens, budget=11)
    oracle = LlamaForCausalLM.from_pretrained(checkpoint(variant), dtype=torch.float32).eval()
    for text, prompt_len, rows in zip(texts, prompt_lens, ours, strict=True):
        with torch.inference_mode():
            expected = oracle(torch.tensor([text])).logits[0, prompt_len - 1 :]
        assert rows.shape == expected.shape
        assert expected.std() > 0.5  # far from all zero: the comparison means something
        assert (rows - expected).abs().max() < 1e-4


def rope_of(**raw: Any) -> RopeConfig:
    return read_rope({**DEFAULTS, **raw}, head_dim=128)


def test_rope_settings_of_older_configs_read_the_same() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    new = rope_of(rope_parameters={"rope_theta": 500.0, "rope_type": "llama3", **scaling})
    old = rope_of(rope_theta=500.0, rope_scaling={"type": "llama3", **scaling})
    assert new == old
    assert new.theta == 500.0
    assert rope_of(rope_theta=7.0, rope_scaling=None).theta == 7.0


@pytest.mark.parametrize("rope_type", ["default", "llama3", "linear"])
def test_inverse_frequencies_equal_transformers_for_the_real_llama31_settings(rope_type: str) -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    parameters = {
        "rope_theta": 500_000.0,
        "rope_type": rope_type,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(
        hidden_size=4096, num_attention_heads=32, max_position_embeddings=131072, rope_parameters=parameters
    )
    expected = LlamaRotaryEmbedding(config).inv_freq
    ours = inverse_frequencies(rope_of(rope_parameters=parameters), 128)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (5, 1)])
@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_torch_kernels_equal_attention_written_out(heads: int, kv_heads: int, block_size: int) -> None:
    """Decode and prefill over shuffled blocks against softmax(q·k) · v, head by head, in float64."""
    generator = torch.Generator().manual_seed(heads)
    lengths, head_dim, num_blocks = [1, 7, 20], 8, 40
    caches = [torch.randn(num_blocks, block_size, kv_heads, head_dim, generator=generator) for _ in range(2)]
    order = torch.randperm(num_blocks, generator=generator).tolist()
    width = -(-max(lengths) // block_size)
    tables = [[order.pop() for _ in range(-(-length // block_size))] for length in lengths]
    padded = torch.tensor([table + [0] * (width - len(table)) for table in tables])
    q = torch.randn(len(lengths), heads, head_dim, generator=generator)
    decoded = attention_torch.decode(q, *caches, padded, torch.tensor(lengths), 0.3)
    for row, (length, table) in enumerate(zip(lengths, tables, strict=True)):
        keys, values = (cache[table].flatten(0, 1)[:length].double() for cache in caches)
        chunk = torch.randn(min(length, 5), heads, head_dim, generator=generator)
        prefilled = attention_torch.prefill(chunk, *caches, torch.tensor(table), length, 0.3)
        for head in range(heads):
            shared = head // (heads // kv_heads)
            weights = (keys[:, shared] @ q[row, head].double() * 0.3).softmax(0)
            torch.testing.assert_close(decoded[row, head].double(), weights @ values[:, shared], rtol=0, atol=1e-5)
            for offset in range(len(chunk)):
                seen = length - len(chunk) + offset + 1
                weights = (keys[:seen, shared] @ chunk[offset, head].double() * 0.3).softmax(0)
                torch.testing.assert_close(
                    prefilled[offset, head].double(), weights @ values[:seen, shared], rtol=0, atol=1e-5
                )
