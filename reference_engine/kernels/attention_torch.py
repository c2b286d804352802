"""Paged attention in plain torch: the oracle that faster kernels are tested against. Shapes: kernels/dispatch.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def write_kv(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor
) -> None:
    k_cache.flatten(0, 1).index_copy_(0, slots, k)
    v_cache.flatten(0, 1).index_copy_(0, slots, v)


def decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    N, H, D = q.shape
    G = k_cache.shape[2]
    keys = _gather(k_cache, block_tables)  # [N, G, T, D], T = M * block_size
    values = _gather(v_cache, block_tables)
    T = keys.shape[2]
    mask = (torch.arange(T) < context_lens.unsqueeze(1)).view(N, 1, 1, T)
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
) -> torch.Tensor:
    L = q.shape[0]
    keys = _gather(k_cache, block_table.unsqueeze(0))[:, :, :context_len]
    values = _gather(v_cache, block_table.unsqueeze(0))[:, :, :context_len]
    # is_causal aligns the mask with the first key; a later chunk is aligned with the last one.
    mask = None
    if context_len > L:
        mask = torch.ones(L, context_len, dtype=torch.bool).tril(context_len - L)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0), keys, values, mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return out.squeeze(0).transpose(0, 1)


def _gather(cache: torch.Tensor, block_tables: torch.Tensor) -> torch.Tensor:
    """[num_blocks, block_size, G, D] and [N, M] to a copy [N, G, M * block_size, D]."""
    N, M = block_tables.shape
    _, B, G, D = cache.shape
    return cache.index_select(0, block_tables.flatten()).view(N, M * B, G, D).transpose(1, 2)
