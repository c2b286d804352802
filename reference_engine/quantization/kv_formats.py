"""How keys and values are stored in fewer bits than they are computed in, in plain torch.

int8: the D components of one token's key or value head share one bfloat16 scale, the largest is 127; so a token is
written once and never again, whatever follows it. The scale stands behind the components, so that a block stays one
piece of memory: what copies blocks (prefix cache, copy-on-write, swap) needs to know nothing of it.

fp8: e4m3 (arXiv:2209.05433), each number by itself, saturating at ±448. No scale: keys and values of trained models are
within its range, and three bits of fraction do not depend on the magnitude.
"""

from __future__ import annotations

import torch

from llmbench.reference_engine.config import KVCacheDTypeName

FP8 = torch.float8_e4m3fn
FP8_LARGEST = 448.0
SCALE_BYTES = 2


def storage_dtype(name: KVCacheDTypeName, dtype: torch.dtype) -> torch.dtype:
    """Of the cache's tensor; `dtype` is the model's."""
    return {"auto": dtype, "int8": torch.int8, "fp8": FP8}[name]


def stored_width(head_dim: int, storage: torch.dtype) -> int:
    """Elements that one token's key or value takes in one head."""
    return head_dim + SCALE_BYTES if storage == torch.int8 else head_dim


def encode(x: torch.Tensor, storage: torch.dtype) -> torch.Tensor:
    """x [..., D] as it is stored: [..., stored_width]."""
    if storage == FP8:
        return x.float().clamp(-FP8_LARGEST, FP8_LARGEST).to(FP8)
    if storage != torch.int8:
        return x.to(storage)
    x = x.float()
    # Copied, as without tokens it has strides whose bytes cannot be viewed.
    scales = (x.abs().amax(dim=-1, keepdim=True) / 127.0).bfloat16().clone(memory_format=torch.contiguous_format)
    inverse = torch.where(scales == 0, 0.0, 1.0 / scales.float())
    codes = (x * inverse).round().clamp(-127, 127).to(torch.int8)
    return torch.cat((codes, scales.view(torch.int8)), dim=-1)


def decode(stored: torch.Tensor) -> torch.Tensor:
    """What `encode` stored, [..., D]: float32 for int8 and fp8, as it is otherwise."""
    if stored.dtype == FP8:
        return stored.float()
    if stored.dtype != torch.int8:
        return stored
    codes, scales = stored[..., :-SCALE_BYTES], stored[..., -SCALE_BYTES:].contiguous()
    return codes.float() * scales.view(torch.bfloat16).float()
