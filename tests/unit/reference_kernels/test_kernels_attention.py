"""The fused attention of each instruction set against torch: rotation, head norms, windows, cache, odd lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.errors import KernelsUnavailableError
from llmbench.reference_engine.kernels.contract import HeadLayout, Kernels, NormWeights
from llmbench.reference_engine.layers.rotary import RotaryTable
from llmbench.reference_engine.models.config import ModelConfig, RopeConfig
from llmbench.reference_engine.quantization.kv_formats import FP8
from llmbench.reference_engine.step_batch import StepBatch

NUM_BLOCKS = 256


class Conversation:
    """Sequences that grow by chunks through one kernel, with the cache between."""

    def __init__(
        self,
        kernels: Kernels,
        layout: HeadLayout,
        block_size: int,
        dtype: torch.dtype,
        rotary: bool,
        rotated_share: float = 1.0,
    ) -> None:
        config = ModelConfig(
            architecture="",
            vocab_size=1,
            hidden_size=1,
            intermediate_size=1,
            num_layers=1,
            num_heads=layout.num_heads,
            num_kv_heads=layout.num_kv_heads,
            head_dim=layout.head_dim,
            max_position_embeddings=1,
            norm_eps=1e-5,
            rope=RopeConfig(rotated_share=rotated_share),
            tie_word_embeddings=False,
            eos_token_ids=frozenset(),
        )
        self.cache = KVCache(config, NUM_BLOCKS, block_size, dtype)
        # What a block held before must not matter: start from numbers that would show.
        if dtype.itemsize == 1:
            self.cache.data.view(torch.uint8).fill_(77)
        else:
            self.cache.data.uniform_(-50, 50, generator=torch.Generator().manual_seed(0))
        self.dtype = kernels.activation_dtype(dtype if dtype.itemsize > 1 else torch.float32)
        self.rotary = RotaryTable(config.rope, layout.head_dim, 512, self.dtype) if rotary else None
        self.attend = kernels.attention(layout)
        self.free = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(1)).tolist()
        self.tables: dict[str, list[int]] = {}
        self.lengths: dict[str, int] = {}

    def step(self, chunks: list[tuple[str, int]], qkv: torch.Tensor) -> torch.Tensor:
        """Each chunk appends that many tokens to a sequence; the ones of one token that come first are decodes."""
        spans, positions = [], []
        for name, num_tokens in chunks:
            start = self.lengths.get(name, 0)
            self.lengths[name] = start + num_tokens
            table = self.tables.setdefault(name, [])
            while len(table) * self.cache.block_size < start + num_tokens:
                table.append(self.free.pop())
            spans.append((len(positions), num_tokens, start + num_tokens))
            positions += range(start, start + num_tokens)
        width = max(len(self.tables[name]) for name, _ in chunks)
        num_decodes = 0
        while num_decodes < len(chunks) and chunks[num_decodes][1] == 1:
            num_decodes += 1
        batch = StepBatch(
            token_ids=torch.zeros(len(positions), dtype=torch.int64),
            positions=torch.tensor(positions),
            spans=torch.tensor(spans),
            block_tables=torch.tensor([self.tables[n] + [0] * (width - len(self.tables[n])) for n, _ in chunks]),
            num_decodes=num_decodes,
            kv_cache=self.cache,
            rotary=self.rotary,
        )
        out = self.attend(qkv.to(self.dtype), *self.cache.layers[0], batch)
        return out.float()


def tokens(layout: HeadLayout, count: int, seed: int) -> torch.Tensor:
    width = (layout.num_heads + 2 * layout.num_kv_heads) * layout.head_dim
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


STEPS = [
    [("a", 70), ("b", 1), ("c", 9)],
    [("a", 1), ("c", 1), ("b", 33)],
    [("c", 1), ("a", 40)],
    [("a", 1), ("b", 1), ("c", 1)],
]


def assert_same_answers(
    cpp: Kernels,
    oracle: Kernels,
    layout: HeadLayout,
    *,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    rotary: bool = True,
    tolerance: float = 2e-5,
) -> None:
    ours, theirs = (Conversation(kernels, layout, block_size, dtype, rotary) for kernels in (cpp, oracle))
    for index, chunks in enumerate(STEPS):
        qkv = tokens(layout, sum(count for _, count in chunks), index)
        torch.testing.assert_close(ours.step(chunks, qkv), theirs.step(chunks, qkv), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 2), (5, 1)])
@pytest.mark.parametrize("block_size", [1, 7, 16, 64])
def test_equals_torch(cpp: Kernels, oracle: Kernels, heads: int, kv_heads: int, block_size: int) -> None:
    assert_same_answers(cpp, oracle, HeadLayout(heads, kv_heads, 32, 0.3), block_size=block_size)


@pytest.mark.parametrize("head_dim", [16, 48, 64, 80, 128])
def test_equals_torch_for_head_sizes(cpp: Kernels, oracle: Kernels, head_dim: int) -> None:
    assert_same_answers(cpp, oracle, HeadLayout(2, 1, head_dim, head_dim**-0.5))


def head_norms(seed: int) -> dict[str, Any]:
    weights = torch.randn(2, 32, generator=torch.Generator().manual_seed(seed))
    return {"q_norm": NormWeights(weights[0], None, 1e-6), "k_norm": NormWeights(weights[1], None, 1e-6)}


@pytest.mark.parametrize(
    ("settings", "rotary"),
    [({"window": 1}, True), ({"window": 10}, True), ({"window": 64}, True), (head_norms(3), True), ({}, False)],
    ids=["window 1", "window 10", "window 64", "head norms", "no rotation"],
)
def test_equals_torch_for_variants(cpp: Kernels, oracle: Kernels, settings: dict[str, Any], rotary: bool) -> None:
    assert_same_answers(cpp, oracle, HeadLayout(4, 2, 32, 0.3, **settings), rotary=rotary)


def test_bfloat16_cache_is_as_near_as_bfloat16_allows(cpp: Kernels, oracle: Kernels) -> None:
    assert_same_answers(cpp, oracle, HeadLayout(4, 2, 32, 0.2), dtype=torch.bfloat16, tolerance=5e-2)


@pytest.mark.parametrize("storage", [torch.int8, torch.float8_e4m3fn], ids=["int8", "fp8"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_size"), [(4, 2, 32, 16), (5, 1, 48, 7), (1, 1, 128, 64)]
)
def test_quantised_cache_equals_torch_and_stays_near_float32(
    cpp: Kernels, oracle: Kernels, storage: torch.dtype, heads: int, kv_heads: int, head_dim: int, block_size: int
) -> None:
    layout = HeadLayout(heads, kv_heads, head_dim, head_dim**-0.5)
    ours, theirs = (Conversation(kernels, layout, block_size, storage, rotary=True) for kernels in (cpp, oracle))
    exact = Conversation(oracle, layout, block_size, torch.float32, rotary=True)
    for index, chunks in enumerate(STEPS):
        qkv = tokens(layout, sum(count for _, count in chunks), index)
        found, expected, true = (side.step(chunks, qkv) for side in (ours, theirs, exact))
        # A number half way between two codes may fall on either side: rotations differ in the last bit.
        difference = (found - expected).abs()
        assert difference.median() < 1e-6
        assert difference.max() < 2e-2
        # Half a step is 1/254 of a head's largest number in int8, and 1/16 of each number in fp8.
        assert (found - true).abs().max() < (0.04 if storage == torch.int8 else 0.3)


@pytest.mark.parametrize("storage", [torch.int8, torch.float8_e4m3fn], ids=["int8", "fp8"])
def test_extreme_keys_and_values_are_stored_as_torch_stores_them(
    cpp: Kernels, oracle: Kernels, storage: torch.dtype
) -> None:
    layout = HeadLayout(1, 1, 16, 0.0)
    # Without a rotation one token's answer is its own value as the cache holds it. In fp8: every code's neighbourhood,
    # the ties between codes, tiny numbers, zero, and what lies beyond the largest.
    codes = torch.arange(0, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = (codes[1:] + codes[:-1]) / 2
    numbers = torch.cat((codes, middles, codes * 1.01, torch.tensor([1e-9, 449.0, 1e6])))
    numbers = torch.cat((numbers, -numbers))[: 2 * len(numbers) // 16 * 16]
    values = numbers.view(-1, 16)
    qkv = torch.cat((torch.zeros(len(values), 32), values), dim=1)
    chunks = [(str(index), 1) for index in range(len(values))]
    ours, theirs = (Conversation(kernels, layout, 16, storage, rotary=False) for kernels in (cpp, oracle))
    assert torch.equal(ours.step(chunks, qkv), theirs.step(chunks, qkv))


# (heads, kv heads, head size, block size, window, cache, rotated share). Not every pair of two columns is here, but
# each value meets several of every other column.
MIXED = [
    (1, 1, 16, 1, None, torch.float32, 0.25),
    (4, 2, 48, 7, 1, torch.bfloat16, 1.0),
    (5, 1, 80, 16, 10, torch.int8, 0.5),
    (12, 4, 128, 64, 100, FP8, 0.25),
    (16, 1, 256, 128, None, torch.int8, 1.0),
    (4, 2, 512, 16, 10, torch.float32, 1.0),
    (1, 1, 256, 7, 100, FP8, 0.5),
    (5, 1, 16, 64, 1, torch.float32, 0.5),
    (12, 4, 48, 1, 10, FP8, 1.0),
    (16, 1, 80, 7, 100, torch.float32, 0.25),
    (4, 2, 128, 128, 1, torch.int8, 0.25),
    (1, 1, 80, 64, 10, torch.bfloat16, 0.5),
    (12, 4, 512, 7, None, torch.bfloat16, 0.25),
    (16, 1, 64, 16, 1, FP8, 1.0),
]


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "block_size", "window", "storage", "rotated_share"), MIXED)
def test_any_mixture_equals_torch(
    cpp: Kernels,
    oracle: Kernels,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    window: int | None,
    storage: torch.dtype,
    rotated_share: float,
) -> None:
    layout = HeadLayout(heads, kv_heads, head_dim, head_dim**-0.5, window)
    ours, theirs = (
        Conversation(kernels, layout, block_size, storage, True, rotated_share) for kernels in (cpp, oracle)
    )
    # A key that differs in its last bit may be rounded to its other neighbour; torch's activations are bfloat16 too.
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 5e-2}.get(storage, 2e-2)
    for index, chunks in enumerate(STEPS):
        qkv = tokens(layout, sum(count for _, count in chunks), index)
        torch.testing.assert_close(ours.step(chunks, qkv), theirs.step(chunks, qkv), rtol=0, atol=tolerance)


def test_a_step_without_tokens_and_a_span_without_any_change_nothing(cpp: Kernels) -> None:
    attend, rest = torch.ops.llmbench.attention.default, (None, None, None, None, 0.0, 2, 0.5, 0)
    caches = torch.randn(2, 3, 16, 1, 32)
    before = caches.clone()
    nothing = torch.empty(0, dtype=torch.int64)
    out = attend(torch.empty(0, 128), *caches, nothing.view(0, 3), nothing.view(0, 1), *rest)
    assert out.shape == (0, 64)
    assert torch.equal(caches, before)
    qkv, tables = torch.randn(3, 128), torch.tensor([[1], [0], [2]])
    whole = attend(qkv, *caches, torch.tensor([[0, 1, 1], [1, 0, 0], [1, 2, 2]]), tables, *rest)
    assert torch.equal(whole, attend(qkv, *before, torch.tensor([[0, 1, 1], [1, 2, 2]]), tables[[0, 2]], *rest))
    assert torch.equal(caches, before)


def test_large_scores_do_not_overflow(cpp: Kernels, oracle: Kernels) -> None:
    assert_same_answers(cpp, oracle, HeadLayout(2, 1, 32, 30.0), tolerance=1e-2)


@pytest.mark.parametrize("window", [None, 20])
def test_a_token_is_the_same_to_the_bit_however_its_prompt_is_cut(cpp: Kernels, window: int | None) -> None:
    layout = HeadLayout(6, 2, 32, 0.3, window)
    qkv = tokens(layout, 150, 9)
    whole = Conversation(cpp, layout, 16, torch.float32, rotary=True).step([("a", 150)], qkv)
    cut = Conversation(cpp, layout, 16, torch.float32, rotary=True)
    parts, start = [], 0
    for size in (1, 1, 30, 64, 3, 50, 1):
        other = tokens(layout, 5, start)  # and whatever stands beside it
        rows = cut.step([("a", size), (f"other {start}", 5)], torch.cat((qkv[start : start + size], other)))
        parts.append(rows[:size])
        start += size
    assert torch.equal(torch.cat(parts), whole)


def test_blocks_and_spans_outside_the_cache_are_refused(cpp: Kernels) -> None:
    cache = torch.zeros(2, 16, 1, 32)
    rest = (None, None, None, None, 0.0, 2, 0.5, 0)
    attend = torch.ops.llmbench.attention.default
    with pytest.raises(RuntimeError, match="leads to block 2 of 2"):
        attend(torch.randn(1, 128), cache, cache.clone(), torch.tensor([[0, 1, 1]]), torch.tensor([[2]]), *rest)
    with pytest.raises(RuntimeError, match="span 0 does not fit"):
        attend(torch.randn(1, 128), cache, cache.clone(), torch.tensor([[0, 2, 2]]), torch.tensor([[1]]), *rest)


def test_head_sizes_without_a_kernel_are_refused(cpp: Kernels) -> None:
    with pytest.raises(KernelsUnavailableError, match=r"up to 512, and the model's is 24; kernels = torch"):
        cpp.attention(HeadLayout(2, 1, 24, 1.0))
