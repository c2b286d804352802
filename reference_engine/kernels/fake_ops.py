"""Shapes of the C++ operators' results, for torch.compile and meta tensors. Importable once the library is loaded."""

from __future__ import annotations

from typing import Any

import torch


@torch.library.register_fake("llmbench::linear")  # type: ignore[untyped-decorator]
def _linear(x: torch.Tensor, packed: torch.Tensor, weight_format: int, out_features: int, *_: Any) -> torch.Tensor:
    return x.new_empty(x.shape[0], out_features)


@torch.library.register_fake("llmbench::attention")  # type: ignore[untyped-decorator]
def _attention(
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    spans: torch.Tensor,
    block_tables: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    norm_eps: float,
    num_heads: int,
    scale: float,
    window: int,
) -> torch.Tensor:
    head_dim = qkv.shape[1] // (num_heads + 2 * k_cache.shape[2])
    return qkv.new_empty(qkv.shape[0], num_heads * head_dim)


@torch.library.register_fake("llmbench::embedding")  # type: ignore[untyped-decorator]
def _embedding(table: torch.Tensor, ids: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
    return table.new_empty(ids.shape[0], table.shape[1], dtype=torch.float32)


@torch.library.register_fake("llmbench::argmax")  # type: ignore[untyped-decorator]
def _argmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


@torch.library.register_fake("llmbench::checksum")  # type: ignore[untyped-decorator]
def _checksum(data: torch.Tensor) -> torch.Tensor:
    return data.new_empty((), dtype=torch.int64)


@torch.library.register_fake("llmbench::stamp")  # type: ignore[untyped-decorator]
def _stamp(_stamps: torch.Tensor, _place: int) -> None:
    return None
