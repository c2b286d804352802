"""Self-attention over the paged cache, and what it needs to know about the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.kernels.dispatch import AttentionKernels
from llmbench.reference_engine.layers.linear import FusedLinear, Linear
from llmbench.reference_engine.layers.rotary import rotate
from llmbench.reference_engine.models.config import ModelConfig


class PrefillSpan(NamedTuple):
    """Rows [start, start + num_tokens) of the step are the last num_tokens of a sequence's context_len tokens."""

    start: int
    num_tokens: int
    block_table: torch.Tensor
    context_len: int


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The tokens of one step, flattened: first one row per decoding sequence, then the prefill chunks.

    token_ids, positions, slots [T] int64; block_tables [num_decodes, M] int64, rows padded with block 0; context_lens
    [num_decodes] int64, the new token included. cos and sin [T, 1, head_dim].
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    num_decodes: int
    block_tables: torch.Tensor
    context_lens: torch.Tensor
    prefills: tuple[PrefillSpan, ...]
    kv_cache: KVCache
    kernels: AttentionKernels
    cos: torch.Tensor
    sin: torch.Tensor


class PagedAttention(nn.Module):
    """Multi-head attention with grouped key/value heads; writes the step's keys and values into layer `index`."""

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.index = index
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.scale = self.head_dim**-0.5
        widths = [heads * self.head_dim for heads in (self.num_heads, self.num_kv_heads, self.num_kv_heads)]
        self.qkv = FusedLinear(config.hidden_size, widths, bias=config.attention_bias, dtype=dtype)
        self.out = Linear(widths[0], config.hidden_size, bias=config.attention_bias, dtype=dtype)

    def forward(self, x: torch.Tensor, batch: StepBatch) -> torch.Tensor:
        """x [T, hidden_size] to the same shape."""
        H, G = self.num_heads, self.num_kv_heads
        heads = self.qkv(x).view(x.shape[0], H + 2 * G, self.head_dim)
        turned = rotate(heads[:, : H + G], batch.cos, batch.sin)
        q, k, v = turned[:, :H], turned[:, H:], heads[:, H + G :]
        k_cache, v_cache = batch.kv_cache.layer(self.index)
        batch.kernels.write_kv(k, v, k_cache, v_cache, batch.slots)
        parts: list[torch.Tensor] = []
        if batch.num_decodes:
            new = q[: batch.num_decodes]
            parts.append(
                batch.kernels.decode(new, k_cache, v_cache, batch.block_tables, batch.context_lens, self.scale)
            )
        for span in batch.prefills:
            chunk = q[span.start : span.start + span.num_tokens]
            parts.append(batch.kernels.prefill(chunk, k_cache, v_cache, span.block_table, span.context_len, self.scale))
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts)
        out: torch.Tensor = self.out(mixed.reshape(x.shape[0], H * self.head_dim))
        return out
