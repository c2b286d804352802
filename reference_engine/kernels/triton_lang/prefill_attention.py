"""FlashAttention over chunks of several sequences at once, keys and values read from the paged cache.

One program per tile of queries and head; softmax online, so that no score matrix exists. Source: FlashAttention-2,
arXiv:2307.08691 §3.1.
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
from llmbench.reference_engine.step_batch import TILE_ROWS

KEY_TILE = 64
# Powers of two are a multiplication less.
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _attend(
    begin,
    end,
    query,
    position,
    last,
    best,
    total,
    acc,
    k_cache,
    v_cache,
    table,
    group,
    scale,
    window,
    G: tl.constexpr,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    IS_MASKED: tl.constexpr,
    FORMAT: tl.constexpr,
):
    """Takes in the tiles of keys begin … end - 1; where not IS_MASKED every query sees each of their keys."""
    lane = tl.arange(0, D_PADDED)
    in_head = lane < D
    for key_tile in range(begin, end):
        key = key_tile * KEY_TILE + tl.arange(0, KEY_TILE)
        is_key = key < last
        if IS_MASKED:
            block = tl.load(table + key // BLOCK_SIZE, mask=is_key, other=0)
            is_read = is_key[:, None] & in_head[None, :]
        else:
            block = tl.load(table + key // BLOCK_SIZE)
            is_read = in_head[None, :]
        place = (block * BLOCK_SIZE + key % BLOCK_SIZE) * G + group
        keys = load_codes(k_cache, place, lane, is_read, query, D, FORMAT)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * (scale * LOG2_E)
        if FORMAT == "int8":
            scores *= load_scales(k_cache, place, is_key, D)[None, :]
        if IS_MASKED:
            distance = position[:, None] - key[None, :]
            is_seen = (distance >= 0) & (distance < window) & is_key[None, :]
            scores = tl.where(is_seen, scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, axis=1))
        safe_best = new_best
        if IS_MASKED:
            # A tile that lies wholly before a row's window leaves that row at -inf, and -inf - -inf is nan.
            safe_best = tl.where(new_best == float("-inf"), 0.0, new_best)
        shrink = tl.exp2(best - safe_best)
        weights = tl.exp2(scores - safe_best[:, None])
        values = load_codes(v_cache, place, lane, is_read, query, D, FORMAT)
        total = total * shrink + tl.sum(weights, axis=1)
        if FORMAT == "int8":
            weights *= load_scales(v_cache, place, is_key, D)[None, :]
        acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
        best = new_best
    return best, total, acc


@triton.jit
def prefill_kernel(
    q,
    k_cache,
    v_cache,
    tables,
    spans,
    tiles,
    out,
    q_stride,
    table_stride,
    scale,
    window,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    FORMAT: tl.constexpr,
):
    # The last tiles see the most keys: begun first, they do not end alone.
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    head = tl.program_id(0)
    span = tl.load(tiles + 2 * tile)
    first = tl.load(tiles + 2 * tile + 1)
    start = tl.load(spans + 3 * span)
    num_tokens = tl.load(spans + 3 * span + 1)
    context_len = tl.load(spans + 3 * span + 2)

    row = first + tl.arange(0, QUERY_TILE)
    lane = tl.arange(0, D_PADDED)
    in_head = lane < D
    is_query = row < num_tokens
    query = tl.load(
        q + (start + row)[:, None] * q_stride + head * D + lane[None, :],
        mask=is_query[:, None] & in_head[None, :],
        other=0.0,
    )
    query = as_factor(query, FORMAT)
    # The span's queries are the last of its context.
    position = (context_len - num_tokens + row).to(tl.int32)
    last = tl.minimum(context_len, context_len - num_tokens + first + QUERY_TILE).to(tl.int32)
    # Keys up to and including the first query's position are seen by all queries of the tile, if there is no window.
    num_seen_by_all = (context_len - num_tokens + first + 1).to(tl.int32)
    table = tables + span * table_stride
    group = head // (H // G)

    best = tl.full([QUERY_TILE], float("-inf"), tl.float32)
    total = tl.zeros([QUERY_TILE], tl.float32)
    acc = tl.zeros([QUERY_TILE, D_PADDED], tl.float32)
    if HAS_WINDOW:
        begin = tl.maximum(num_seen_by_all - window, 0) // KEY_TILE
    else:
        begin = num_seen_by_all // KEY_TILE
        best, total, acc = _attend(
            0,
            begin,
            query,
            position,
            last,
            best,
            total,
            acc,
            k_cache,
            v_cache,
            table,
            group,
            scale,
            window,
            G,
            D,
            D_PADDED,
            BLOCK_SIZE,
            KEY_TILE,
            False,
            FORMAT,
        )
    best, total, acc = _attend(
        begin,
        tl.cdiv(last, KEY_TILE),
        query,
        position,
        last,
        best,
        total,
        acc,
        k_cache,
        v_cache,
        table,
        group,
        scale,
        window,
        G,
        D,
        D_PADDED,
        BLOCK_SIZE,
        KEY_TILE,
        True,
        FORMAT,
    )
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(
        out + ((start + row)[:, None] * H + head) * D + lane[None, :],
        acc.to(out.dtype.element_ty),
        mask=is_query[:, None] & in_head[None, :],
    )


def prefill_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    spans: torch.Tensor,
    tiles: torch.Tensor,
    out: torch.Tensor,
    scale: float,
    window: int | None = None,
) -> None:
    """Causal attention of the tiles' queries over their spans' cache; modifies their rows of out [T, H, D].

    q [T, H, D] (its rows may be strided) and spans [S, 3] int64: first row, number of rows, and number of tokens up to
    and including the last of them; block_tables [S, M] int64 of the same sequences; k_cache, v_cache [num_blocks,
    block_size, G, stored width of D] in q's dtype or a format of quantization/kv_formats.py; tiles [num_tiles, 2] int64
    as StepBatch.prefill_tiles. Oracle: attention_torch.prefill.
    """
    _, H, D = q.shape
    k_cache, kv_format = as_kernel_argument(k_cache)
    v_cache, _ = as_kernel_argument(v_cache)
    prefill_kernel[(H, tiles.shape[0])](
        q,
        k_cache,
        v_cache,
        block_tables,
        spans,
        tiles,
        out,
        q.stride(0),
        block_tables.stride(0),
        scale,
        2**31 - 1 if window is None else window,
        H=H,
        G=k_cache.shape[2],
        D=D,
        D_PADDED=max(16, triton.next_power_of_2(D)),
        BLOCK_SIZE=k_cache.shape[1],
        QUERY_TILE=TILE_ROWS,
        KEY_TILE=KEY_TILE,
        HAS_WINDOW=window is not None,
        FORMAT=kv_format,
        num_warps=4,
        num_stages=2,
    )
