"""Paged attention in plain torch.

H query heads, G key/value heads, H % G == 0, D head size. k_cache and v_cache are contiguous, [num_blocks, block_size,
G, stored width of D] (quantization/kv_formats.py). A block table's entries beyond a sequence's last block may be any
valid block id.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from llmbench.reference_engine.quantization import kv_formats


def write_kv(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor
) -> None:
    """Modifies the caches: token i of k, v [T, G, D] goes to slot slots[i] = block id * block_size + offset."""
    for x, cache in ((k, k_cache), (v, v_cache)):
        stored = kv_formats.encode(x, cache.dtype)
        if stored.dtype == kv_formats.FP8:  # which torch does not index; its bytes do as well
            stored, cache = stored.view(torch.uint8), cache.view(torch.uint8)
        cache.flatten(0, 1).index_copy_(0, slots, stored)


def decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Attention of one new token per sequence over its cache; returns [N, H, D] in q's dtype.

    q [N, H, D]; block_tables [N, M] int64; context_lens [N] int64, the new token included, so at least 1.
    """
    N, H, D = q.shape
    G = k_cache.shape[2]
    keys = _gather(k_cache, block_tables).to(q.dtype)  # [N, G, T, D], T = M * block_size
    values = _gather(v_cache, block_tables).to(q.dtype)
    T = keys.shape[2]
    distance = context_lens.unsqueeze(1) - 1 - torch.arange(T)
    mask = _is_seen(distance, window).view(N, 1, 1, T)
    # The H // G heads that share a key head stand where the query positions usually do: keys are not copied per head.
    grouped = q.view(N, G, H // G, D)
    return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale).reshape(N, H, D)


def prefill(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_len: int,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention of one sequence's chunk over its cache; returns [L, H, D] in q's dtype.

    q [L, H, D] are the last L of the context_len tokens whose keys and values block_table [M] int64 leads to.
    """
    L = q.shape[0]
    keys = _gather(k_cache, block_table.unsqueeze(0))[:, :, :context_len].to(q.dtype)
    values = _gather(v_cache, block_table.unsqueeze(0))[:, :, :context_len].to(q.dtype)
    # is_causal aligns the mask with the first key; a later chunk is aligned with the last one.
    mask = None
    if context_len > L or window is not None:
        distance = torch.arange(context_len - L, context_len).unsqueeze(1) - torch.arange(context_len)
        mask = _is_seen(distance, window)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0), keys, values, mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return out.squeeze(0).transpose(0, 1)


def _is_seen(distance: torch.Tensor, window: int | None) -> torch.Tensor:
    """True for keys at this distance before their query: not after it, and not out of the window."""
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def _gather(cache: torch.Tensor, block_tables: torch.Tensor) -> torch.Tensor:
    """[num_blocks, block_size, G, stored width] and [N, M] to a copy [N, G, M * block_size, D]."""
    N, M = block_tables.shape
    _, B, G, width = cache.shape
    is_fp8 = cache.dtype == kv_formats.FP8
    stored = (cache.view(torch.uint8) if is_fp8 else cache).index_select(0, block_tables.flatten()).view(cache.dtype)
    return kv_formats.decode(stored.view(N, M * B, G, width)).transpose(1, 2)
