"""Triton-language attention, in Triton's interpreter, against the torch kernels."""

from __future__ import annotations

import pytest
import torch

from llmbench.reference_engine.kernels import attention_torch
from llmbench.reference_engine.kernels.triton_lang.decode_attention import decode_attention
from llmbench.reference_engine.kernels.triton_lang.prefill_attention import prefill_attention
from llmbench.reference_engine.kernels.triton_lang.rotary_kv import rotary_kv
from llmbench.reference_engine.layers.rotary import RotaryTable, rotate
from llmbench.reference_engine.models.config import RopeConfig
from llmbench.reference_engine.quantization import kv_formats
from llmbench.reference_engine.step_batch import TILE_ROWS

STORED = [torch.float32, torch.int8, kv_formats.FP8]


def paged_cache(
    lengths: list[int], G: int, D: int, stored: torch.dtype = torch.float32, block_size: int = 16
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Caches with random contents, and block tables over shuffled blocks, padded with block 0."""
    needed = [-(-length // block_size) for length in lengths]
    num_blocks = sum(needed) + 3
    shuffled = torch.randperm(num_blocks)
    tables = torch.zeros(len(lengths), max(needed, default=0) + 1, dtype=torch.int64)
    for row, count in enumerate(needed):
        tables[row, :count] = shuffled[sum(needed[:row]) :][:count]
    # Magnitudes apart from each other, as int8's scales must tell them; and some that e4m3 has only subnormals for.
    numbers = torch.randn(2, num_blocks, block_size, G, D) * torch.rand(2, num_blocks, block_size, G, 1) ** 2
    caches = kv_formats.encode(numbers, stored)
    return caches[0], caches[1], tables


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(
    ("H", "G", "D", "block_size", "window", "num_splits"),
    [
        (4, 2, 16, 16, None, 3),
        (4, 2, 16, 7, 20, 1),
        (3, 3, 24, 1, None, 1),
        (8, 1, 64, 64, 20, 3),
        (6, 2, 7, 16, None, 2),
        (32, 1, 16, 7, 100, 5),  # more heads to a key head than a tile's fewest rows
        (12, 4, 80, 128, 1, 2),
        (5, 1, 128, 16, None, None),
    ],
)
def test_decode_equals_torch(
    H: int, G: int, D: int, block_size: int, window: int | None, num_splits: int | None, stored: torch.dtype
) -> None:
    torch.manual_seed(0)
    lengths = [1, 16, 65, 150]
    k_cache, v_cache, tables = paged_cache(lengths, G, D, stored, block_size)
    q, context_lens = torch.randn(len(lengths), H, D), torch.tensor(lengths)
    ours = decode_attention(q, k_cache, v_cache, tables, context_lens, D**-0.5, window, num_splits)
    theirs = attention_torch.decode(q, k_cache, v_cache, tables, context_lens, D**-0.5, window)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("lengths", [[], [1], [64], [1, 1, 1]], ids=str)
def test_decode_of_few_sequences_equals_torch(lengths: list[int]) -> None:
    torch.manual_seed(0)
    k_cache, v_cache, tables = paged_cache(lengths, 1, 16)
    q, context_lens = torch.randn(len(lengths), 2, 16), torch.tensor(lengths, dtype=torch.int64)
    ours = decode_attention(q, k_cache, v_cache, tables, context_lens, 0.25)
    torch.testing.assert_close(ours, attention_torch.decode(q, k_cache, v_cache, tables, context_lens, 0.25))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(
    ("H", "G", "D", "block_size", "window"),
    [
        (4, 2, 16, 16, None),
        (2, 1, 16, 7, 20),
        (2, 2, 24, 1, None),
        (3, 1, 7, 64, 1),
        (6, 2, 80, 128, 100),
        (16, 1, 16, 16, None),
    ],
)
def test_prefill_equals_torch_for_whole_prompts_and_later_chunks(
    H: int, G: int, D: int, block_size: int, window: int | None, stored: torch.dtype
) -> None:
    torch.manual_seed(0)
    # (rows, context up to the last of them); one has no rows in this step
    chunks = [(5, 5), (70, 70), (33, 100), (0, 20), (1, 64), (1, 1)]
    k_cache, v_cache, tables = paged_cache([context for _, context in chunks], G, D, stored, block_size)
    starts = [sum(rows for rows, _ in chunks[:index]) for index in range(len(chunks))]
    spans = torch.tensor([(start, *chunk) for start, chunk in zip(starts, chunks, strict=True)])
    q = torch.randn(sum(rows for rows, _ in chunks), H, D)
    tiles = torch.tensor(
        [(index, first) for index, (rows, _) in enumerate(chunks) for first in range(0, rows, TILE_ROWS)]
    )
    ours = torch.empty_like(q)
    prefill_attention(q, k_cache, v_cache, tables, spans, tiles, ours, D**-0.5, window)
    for (start, rows, context), table in zip(spans.tolist(), tables, strict=True):
        theirs = attention_torch.prefill(q[start : start + rows], k_cache, v_cache, table, context, D**-0.5, window)
        torch.testing.assert_close(ours[start : start + rows], theirs, atol=2e-5, rtol=2e-5)


def test_prefill_without_tiles_writes_nothing() -> None:
    k_cache, v_cache, tables = paged_cache([5], 1, 16)
    q, nothing = torch.randn(5, 2, 16), torch.empty(0, 2, dtype=torch.int64)
    out = torch.zeros_like(q)
    prefill_attention(q, k_cache, v_cache, tables, torch.tensor([[0, 5, 5]]), nothing, out, 0.25)
    assert not out.any()


@pytest.mark.parametrize(("H", "G", "D", "block_size"), [(4, 2, 16, 16), (5, 1, 80, 7), (16, 1, 64, 64)])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.usefixtures("bfloat16_arithmetic")
def test_bfloat16_is_as_near_as_bfloat16_allows(H: int, G: int, D: int, block_size: int, window: int | None) -> None:
    torch.manual_seed(0)
    lengths = [1, 16, 65, 150]
    *floats, tables = paged_cache(lengths, G, D, block_size=block_size)
    k_cache, v_cache = (cache.bfloat16() for cache in floats)
    q, context_lens = torch.randn(len(lengths), H, D).bfloat16(), torch.tensor(lengths)
    expected = attention_torch.decode(q.float(), k_cache, v_cache, tables, context_lens, D**-0.5, window)
    ours = decode_attention(q, k_cache, v_cache, tables, context_lens, D**-0.5, window)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), expected, atol=2e-2, rtol=2e-2)
    spans = torch.tensor([(row, 1, length) for row, length in enumerate(lengths)])
    out = torch.empty_like(q)
    tiles = torch.tensor([(row, 0) for row in range(len(lengths))])
    prefill_attention(q, k_cache, v_cache, tables, spans, tiles, out, D**-0.5, window)
    torch.testing.assert_close(out.float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(
    ("T", "H", "G", "D", "block_size", "rotated_share", "with_norm"),
    [
        (4, 2, 2, 24, 16, None, False),
        (4, 2, 2, 24, 16, 1.0, False),
        (4, 2, 2, 24, 16, 0.25, True),
        (1, 6, 2, 64, 64, 1.0, True),
        (3, 5, 1, 7, 1, None, False),  # an odd head has no pairs to turn
        (2, 16, 1, 80, 7, 0.5, False),
        (0, 2, 1, 16, 16, 1.0, False),
    ],
)
def test_rotary_and_the_cache_write_equal_torch(
    T: int,
    H: int,
    G: int,
    D: int,
    block_size: int,
    rotated_share: float | None,
    with_norm: bool,
    stored: torch.dtype,
) -> None:
    torch.manual_seed(0)
    k_cache, v_cache, _ = paged_cache([64], G, D, stored, block_size)
    expected_k, expected_v, before = k_cache.clone(), v_cache.clone(), k_cache.view(torch.uint8).clone()
    qkv, slots = torch.randn(T, (H + 2 * G) * D), torch.tensor([5, 17, 0, 63])[:T]
    q, k, v = qkv.clone().view(T, H + 2 * G, D).split([H, G, G], dim=1)
    norms = (torch.rand(D) + 0.5, torch.rand(D) + 0.5, 1e-6) if with_norm else None
    if norms is not None:
        q = torch.nn.functional.rms_norm(q, (D,), norms[0], norms[2])
        k = torch.nn.functional.rms_norm(k, (D,), norms[1], norms[2])
    rotation = None
    if rotated_share is not None:
        table = RotaryTable(RopeConfig(rotated_share=rotated_share), D, 512, torch.float32)
        rotation = table.at(torch.tensor([0, 1, 100, 511])[4 - T :])
        q, k = rotate(q, *rotation), rotate(k, *rotation)
    attention_torch.write_kv(k, v, expected_k, expected_v, slots)
    rotary_kv(qkv, rotation, slots, k_cache, v_cache, H, norms)
    torch.testing.assert_close(qkv.view(T, H + 2 * G, D)[:, :H], q, atol=1e-5, rtol=1e-5)
    # A key that differs in its last bit may be rounded to the neighbouring code.
    step = {torch.float32: 1e-5, torch.int8: 1.01 / 127, kv_formats.FP8: 1 / 8}[stored]
    assert T == 0 or not torch.equal(k_cache.view(torch.uint8), before), "no key was written"
    keys, expected_keys = kv_formats.decode(k_cache), kv_formats.decode(expected_k)
    torch.testing.assert_close(keys, expected_keys, atol=step * expected_keys.abs().max().item(), rtol=step)
    if stored != torch.float32:
        assert (keys == expected_keys).float().mean() > 0.99
    assert torch.equal(v_cache.view(torch.uint8), expected_v.view(torch.uint8))


def test_values_of_every_magnitude_are_stored_as_torch_stores_them() -> None:
    """Ties, subnormals, zeros, and more than e4m3 has room for; a head of zeros has the scale 0."""
    torch.manual_seed(0)
    G, D = 16, 64
    numbers = torch.randn(G, D) * 2.0 ** torch.randint(-14, 12, (G, D))
    numbers[0] = 0.0
    every_code = torch.arange(256, dtype=torch.uint8).view(kv_formats.FP8).float().nan_to_num()
    numbers[1:5] = every_code.view(4, 64)
    numbers[5:9] = (every_code + every_code.roll(-1)).view(4, 64) / 2  # halfway between two codes
    for stored in (torch.int8, kv_formats.FP8):
        cache = torch.zeros(2, 1, 1, G, kv_formats.stored_width(D, stored)).to(stored)
        qkv = torch.cat((torch.zeros(1, D), numbers, numbers)).flatten().unsqueeze(0)
        rotary_kv(qkv, None, torch.tensor([0]), cache[0], cache[1], 1)
        expected = kv_formats.encode(numbers, stored).view(torch.uint8)
        for written in cache.view(torch.uint8)[:, 0, 0]:
            assert torch.equal(written, expected)
