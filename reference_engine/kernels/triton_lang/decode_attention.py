"""Paged flash-decoding: one query per sequence, its keys split over programs, the parts combined by their log-sums.

All query heads that share a key head are one tile, so that each key is read once. Source: PagedAttention,
arXiv:2309.06180 §4; split-K as in Flash-Decoding (Dao et al. 2023).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmbench.reference_engine.kernels.triton_lang.kv_storage import (
    as_factor,
    as_kernel_argument,
    load_codes,
    load_scales,
)
from llmbench.reference_engine.kernels.triton_lang.processors import num_processors

# tl.dot needs 16 rows; fewer query heads than that share the tile with masked ones.
MIN_ROWS = 16
MAX_SPLITS = 32
# Programs to a multiprocessor: fewer leave some idle, more have parts to combine that weigh more than they win.
PROGRAMS_PER_PROCESSOR = 2
# Powers of two are a multiplication less.
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def decode_part_kernel(
    q,
    k_cache,
    v_cache,
    tables,
    context_lens,
    part_out,
    part_lse,
    q_stride,
    table_stride,
    scale,
    window,
    num_splits,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    FORMAT: tl.constexpr,
):
    """IS_WHOLE: there is one split, and part_out is the output."""
    sequence = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    split = tl.program_id(2)
    context_len = tl.load(context_lens + sequence).to(tl.int32)
    first_key = tl.maximum(context_len - window, 0)
    first_tile = first_key // TILE
    num_tiles = tl.cdiv(context_len, TILE) - first_tile
    tiles_per_split = tl.cdiv(num_tiles, num_splits)
    begin = first_tile + split * tiles_per_split
    end = tl.minimum(begin + tiles_per_split, first_tile + num_tiles)

    row = tl.arange(0, ROWS)
    lane = tl.arange(0, D_PADDED)
    in_group = row < H // G
    in_head = lane < D
    head = group * (H // G) + row
    query = tl.load(
        q + sequence * q_stride + head[:, None] * D + lane[None, :],
        mask=in_group[:, None] & in_head[None, :],
        other=0.0,
    )
    query = as_factor(query, FORMAT)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D_PADDED], tl.float32)
    for tile in range(begin, end):
        key = tile * TILE + tl.arange(0, TILE)
        is_seen = (key < context_len) & (key >= first_key)
        block = tl.load(tables + sequence * table_stride + key // BLOCK_SIZE, mask=is_seen, other=0)
        place = (block * BLOCK_SIZE + key % BLOCK_SIZE) * G + group
        is_read = is_seen[:, None] & in_head[None, :]
        keys = load_codes(k_cache, place, lane, is_read, query, D, FORMAT)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * (scale * LOG2_E)
        if FORMAT == "int8":
            scores *= load_scales(k_cache, place, is_seen, D)[None, :]
        scores = tl.where(is_seen[None, :], scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, axis=1))
        shrink = tl.exp2(best - new_best)
        weights = tl.exp2(scores - new_best[:, None])
        values = load_codes(v_cache, place, lane, is_read, query, D, FORMAT)
        total = total * shrink + tl.sum(weights, axis=1)
        if FORMAT == "int8":
            weights *= load_scales(v_cache, place, is_seen, D)[None, :]
        acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
        best = new_best
    # A split without keys weighs nothing: its log-sum is -inf, and its zeros are never divided by its zero sum.
    empty = total == 0.0
    acc = acc / tl.where(empty, 1.0, total)[:, None]
    part = (sequence * num_splits + split) * H + head
    if not IS_WHOLE:
        lse = tl.where(empty, float("-inf"), best + tl.log2(tl.where(empty, 1.0, total)))
        tl.store(part_lse + part, lse, mask=in_group)
    at = part_out + part[:, None] * D + lane[None, :]
    tl.store(at, acc.to(part_out.dtype.element_ty), mask=in_group[:, None] & in_head[None, :])


@triton.jit
def decode_combine_kernel(
    part_out,
    part_lse,
    out,
    num_splits,
    H: tl.constexpr,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    SPLITS_PADDED: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.arange(0, SPLITS_PADDED)
    lane = tl.arange(0, D_PADDED)
    in_head = lane < D
    part = (sequence * num_splits + split) * H + head
    lse = tl.load(part_lse + part, mask=split < num_splits, other=float("-inf"))
    weight = tl.exp2(lse - tl.max(lse, axis=0))
    parts = tl.load(
        part_out + part[:, None] * D + lane[None, :],
        mask=(split < num_splits)[:, None] & in_head[None, :],
        other=0.0,
    )
    acc = tl.sum(parts * weight[:, None], axis=0) / tl.sum(weight, axis=0)
    tl.store(out + (sequence * H + head) * D + lane, acc.to(out.dtype.element_ty), mask=in_head)


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    window: int | None = None,
    num_splits: int | None = None,
) -> torch.Tensor:
    """Attention of one new token per sequence over its paged cache; returns [N, H, D] in q's dtype, summed in float32.

    q [N, H, D] (its rows may be strided); k_cache, v_cache [num_blocks, block_size, G, stored width of D]
    in q's dtype or a format of quantization/kv_formats.py; block_tables [N, M] int64,
    entries beyond a sequence's last block are not read; context_lens [N] int64, contiguous, the new token included.
    num_splits: programs per sequence and key head, by default enough to fill a GPU at small batches.
    Oracle: attention_torch.decode.
    """
    assert context_lens.is_contiguous()
    N, H, D = q.shape
    block_size, G = k_cache.shape[1:3]
    k_cache, kv_format = as_kernel_argument(k_cache)
    v_cache, _ = as_kernel_argument(v_cache)
    tile, num_warps, num_stages = _shape(kv_format)
    if num_splits is None:
        most = triton.cdiv(block_tables.shape[1] * block_size, tile)
        wanted = triton.cdiv(PROGRAMS_PER_PROCESSOR * num_processors(q.device), max(N * G, 1))
        num_splits = max(1, min(MAX_SPLITS, most, wanted))
    is_whole = num_splits == 1
    out = torch.empty((N, H, D), dtype=q.dtype, device=q.device)
    part_out = part_lse = out
    if not is_whole:
        part_out = torch.empty((N, num_splits, H, D), dtype=torch.float32, device=q.device)
        part_lse = torch.empty((N, num_splits, H), dtype=torch.float32, device=q.device)
    padded = max(16, triton.next_power_of_2(D))
    decode_part_kernel[(N, G, num_splits)](
        q,
        k_cache,
        v_cache,
        block_tables,
        context_lens,
        part_out,
        part_lse,
        q.stride(0),
        block_tables.stride(0),
        scale,
        2**31 - 1 if window is None else window,
        num_splits,
        H=H,
        G=G,
        D=D,
        D_PADDED=padded,
        ROWS=max(MIN_ROWS, triton.next_power_of_2(H // G)),
        BLOCK_SIZE=block_size,
        TILE=tile,
        IS_WHOLE=is_whole,
        FORMAT=kv_format,
        num_warps=num_warps,
        num_stages=num_stages,
    )
    if not is_whole:
        decode_combine_kernel[(N, H)](
            part_out,
            part_lse,
            out,
            num_splits,
            H=H,
            D=D,
            D_PADDED=padded,
            SPLITS_PADDED=triton.next_power_of_2(num_splits),
        )
    return out


def _shape(kv_format: str) -> tuple[int, int, int]:
    """Keys to a tile, warps of a program, and its stages in flight: the best of an H100."""
    return {"float": (128, 4, 2), "int8": (128, 4, 3), "fp8": (64, 4, 4)}[kv_format]
