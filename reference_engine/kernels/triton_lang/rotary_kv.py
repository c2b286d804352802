"""Rotary embedding and the write to the paged cache in one kernel: queries turn in place, keys and values land in their
slots without an intermediate copy."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmbench.reference_engine.kernels.triton_lang.kv_storage import (
    as_kernel_argument,
    int8_scale,
    store_part,
    store_scale,
)


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
    R: tl.constexpr,
    PAIRS: tl.constexpr,
    REST: tl.constexpr,
    HAS_ROTARY: tl.constexpr,
    HAS_NORM: tl.constexpr,
    FORMAT: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    # A head is R // 2 pairs (i, i + R // 2), each loaded and stored by one lane, and behind them what is not turned.
    low_at = tl.arange(0, PAIRS)
    is_pair = low_at < R // 2
    high_at = low_at + R // 2
    rest_at = R + tl.arange(0, REST)
    is_rest = rest_at < D
    here = qkv + token * (H + 2 * G) * D + head * D
    low = tl.load(here + low_at, mask=is_pair, other=0.0).to(tl.float32)
    high = tl.load(here + high_at, mask=is_pair, other=0.0).to(tl.float32)
    rest = tl.load(here + rest_at, mask=is_rest, other=0.0).to(tl.float32)
    if head < H + G:
        if HAS_NORM:
            squares = tl.sum(low * low, axis=0) + tl.sum(high * high, axis=0) + tl.sum(rest * rest, axis=0)
            scale = tl.rsqrt(squares / D + eps)
            weight = q_weight if head < H else k_weight
            low *= scale * tl.load(weight + low_at, mask=is_pair, other=0.0).to(tl.float32)
            high *= scale * tl.load(weight + high_at, mask=is_pair, other=0.0).to(tl.float32)
            rest *= scale * tl.load(weight + rest_at, mask=is_rest, other=0.0).to(tl.float32)
        if HAS_ROTARY:
            # The table holds the rotation's sign in the sines' first half; both halves of the cosines are equal.
            c = tl.load(cos + token * R + low_at, mask=is_pair, other=0.0).to(tl.float32)
            s = tl.load(sin + token * R + high_at, mask=is_pair, other=0.0).to(tl.float32)
            turned = low * c - high * s
            high = high * c + low * s
            low = turned
    if head < H:
        tl.store(here + low_at, low.to(qkv.dtype.element_ty), mask=is_pair)
        tl.store(here + high_at, high.to(qkv.dtype.element_ty), mask=is_pair)
        tl.store(here + rest_at, rest.to(qkv.dtype.element_ty), mask=is_rest)
    else:
        place = tl.load(slots + token) * G + (head - H) % G
        if head < H + G:
            cache = k_cache
        else:
            cache = v_cache
        scale = 1.0
        if FORMAT == "int8":
            largest = tl.maximum(tl.max(tl.abs(low), axis=0), tl.max(tl.abs(high), axis=0))
            scale = int8_scale(tl.maximum(largest, tl.max(tl.abs(rest), axis=0)))
            store_scale(cache, place, scale, D)
        store_part(cache, place, low_at, low, is_pair, scale, D, FORMAT)
        store_part(cache, place, high_at, high, is_pair, scale, D, FORMAT)
        store_part(cache, place, rest_at, rest, is_rest, scale, D, FORMAT)


def rotary_kv(
    qkv: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor] | None,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_heads: int,
    norms: tuple[torch.Tensor, torch.Tensor, float] | None = None,
) -> None:
    """Modifies qkv [T, (H + 2 G) * D] (its queries), k_cache and v_cache [num_blocks, block_size, G, width].

    The caches are in qkv's dtype or in a format of quantization/kv_formats.py, which says how wide. rotation: cosines
    and sines [T, 1, R] as RotaryTable.at gives them, for the first R of a head's components; None for none. norms:
    weights [D] of the query and key norm and their epsilon, applied first. slots [T] int64: block id * block_size +
    offset of each token.
    """
    G = k_cache.shape[2]
    D = qkv.shape[1] // (num_heads + 2 * G)
    k_cache, kv_format = as_kernel_argument(k_cache)
    v_cache, _ = as_kernel_argument(v_cache)
    cos, sin = rotation if rotation is not None else (qkv, qkv)
    R = D - D % 2 if rotation is None else cos.shape[-1]
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
        R=R,
        PAIRS=triton.next_power_of_2(R // 2),
        REST=triton.next_power_of_2(max(D - R, 1)),
        HAS_ROTARY=rotation is not None,
        HAS_NORM=norms is not None,
        FORMAT=kv_format,
    )
