"""Rotary embedding and the write to the paged cache in one kernel: queries turn in place, keys and values land in their
slots without an intermediate copy. Not yet run on a GPU: see docs/gpu.md."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def rotary_kv_kernel(
    qkv,
    cos,
    sin,
    slots,
    k_cache,
    v_cache,
    q_weight,
    k_weight,
    eps,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    HALF: tl.constexpr,
    HAS_ROTARY: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    lane = tl.arange(0, HALF)
    inside = lane < D // 2
    here = qkv + token * (H + 2 * G) * D + head * D
    low = tl.load(here + lane, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(here + D // 2 + lane, mask=inside, other=0.0).to(tl.float32)
    if head < H + G:
        if HAS_NORM:
            scale = tl.rsqrt((tl.sum(low * low, axis=0) + tl.sum(high * high, axis=0)) / D + eps)
            weight = q_weight if head < H else k_weight
            low *= scale * tl.load(weight + lane, mask=inside, other=0.0).to(tl.float32)
            high *= scale * tl.load(weight + D // 2 + lane, mask=inside, other=0.0).to(tl.float32)
        if HAS_ROTARY:
            # The table holds the rotation's sign in the sines' first half; both halves of the cosines are equal.
            c = tl.load(cos + token * D + lane, mask=inside, other=0.0).to(tl.float32)
            s = tl.load(sin + token * D + D // 2 + lane, mask=inside, other=0.0).to(tl.float32)
            turned = low * c - high * s
            high = high * c + low * s
            low = turned
    if head < H:
        tl.store(here + lane, low.to(qkv.dtype.element_ty), mask=inside)
        tl.store(here + D // 2 + lane, high.to(qkv.dtype.element_ty), mask=inside)
    else:
        slot = tl.load(slots + token)
        if head < H + G:
            there = k_cache + (slot * G + head - H) * D
        else:
            there = v_cache + (slot * G + head - H - G) * D
        tl.store(there + lane, low.to(k_cache.dtype.element_ty), mask=inside)
        tl.store(there + D // 2 + lane, high.to(k_cache.dtype.element_ty), mask=inside)


def rotary_kv(
    qkv: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor] | None,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_heads: int,
    norms: tuple[torch.Tensor, torch.Tensor, float] | None = None,
) -> None:
    """Modifies qkv [T, (H + 2 G) * D] (its queries), k_cache and v_cache [num_blocks, block_size, G, D].

    rotation: cosines and sines [T, 1, D] as RotaryTable.at gives them; None for none. norms: weights [D] of the query
    and key norm and their epsilon, applied first. slots [T] int64: block id * block_size + offset of each token.
    """
    G, D = k_cache.shape[2:]
    cos, sin = rotation if rotation is not None else (qkv, qkv)
    q_weight, k_weight, eps = norms if norms is not None else (qkv, qkv, 0.0)
    rotary_kv_kernel[(qkv.shape[0], num_heads + 2 * G)](
        qkv,
        cos,
        sin,
        slots,
        k_cache,
        v_cache,
        q_weight,
        k_weight,
        eps,
        H=num_heads,
        G=G,
        D=D,
        HALF=triton.next_power_of_2(D // 2),
        HAS_ROTARY=rotation is not None,
        HAS_NORM=norms is not None,
    )
