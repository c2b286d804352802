"""FlashAttention over chunks of several sequences at once, keys and values read from the paged cache.

One program per tile of queries and head; softmax online, so that no score matrix exists. Source: FlashAttention-2,
arXiv:2307.08691 §3.1. Not yet run on a GPU: see docs/gpu.md.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmbench.reference_engine.kernels.triton_lang.kv_storage import as_kernel_argument, load_codes, load_scales
from llmbench.reference_engine.step_batch import TILE_ROWS

KEY_TILE = 64


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
    FORMAT: tl.constexpr,
):
    tile = tl.program_id(0)
    head = tl.program_id(1)
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
    # The span's queries are the last of its context.
    position = context_len - num_tokens + row
    last = tl.minimum(context_len, context_len - num_tokens + first + QUERY_TILE)
    oldest = tl.maximum(context_len - num_tokens + first - window + 1, 0)

    best = tl.full([QUERY_TILE], float("-inf"), tl.float32)
    total = tl.zeros([QUERY_TILE], tl.float32)
    acc = tl.zeros([QUERY_TILE, D_PADDED], tl.float32)
    for key_tile in range(oldest // KEY_TILE, tl.cdiv(last, KEY_TILE)):
        key = key_tile * KEY_TILE + tl.arange(0, KEY_TILE)
        is_key = key < last
        block = tl.load(tables + span * table_stride + key // BLOCK_SIZE, mask=is_key, other=0)
        place = (block * BLOCK_SIZE + key % BLOCK_SIZE) * G + head // (H // G)
        is_read = is_key[:, None] & in_head[None, :]
        keys = load_codes(k_cache, place, lane, is_read, query, D, FORMAT)
        distance = position[:, None] - key[None, :]
        is_seen = (distance >= 0) & (distance < window) & is_key[None, :]
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
        if FORMAT == "int8":
            scores *= load_scales(k_cache, place, is_key, D)[None, :]
        scores = tl.where(is_seen, scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, axis=1))
        # A tile that lies wholly before a row's window leaves that row at -inf, and -inf - -inf is nan.
        safe_best = tl.where(new_best == float("-inf"), 0.0, new_best)
        shrink = tl.exp(best - safe_best)
        weights = tl.exp(scores - safe_best[:, None])
        values = load_codes(v_cache, place, lane, is_read, query, D, FORMAT)
        total = total * shrink + tl.sum(weights, axis=1)
        if FORMAT == "int8":
            weights *= load_scales(v_cache, place, is_key, D)[None, :]
        acc = acc * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        best = new_best
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
    prefill_kernel[(tiles.shape[0], H)](
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
        FORMAT=kv_format,
    )
