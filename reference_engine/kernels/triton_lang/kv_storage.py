"""Keys and values as the cache holds them (quantization/kv_formats.py), inside kernels.

FORMAT is "float", "int8" or "fp8" (whose bytes come as uint8). `place` is the number of a token's head in the cache,
slot * G + head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmbench.reference_engine.kernels.triton_lang.byte_numbers import (
    from_e4m3,
    from_e4m3_as_float16,
    from_int8,
    from_int8_as_float16,
    to_e4m3,
)
from llmbench.reference_engine.quantization.kv_formats import FP8, SCALE_BYTES

_SCALE_BYTES = tl.constexpr(SCALE_BYTES)


def as_kernel_argument(cache: torch.Tensor) -> tuple[torch.Tensor, str]:
    """The cache's tensor as kernels take it, and its FORMAT."""
    if cache.dtype == FP8:
        return cache.view(torch.uint8), "fp8"
    return cache, "int8" if cache.dtype == torch.int8 else "float"


@triton.jit
def width(D: tl.constexpr, FORMAT: tl.constexpr):
    """Elements that one head of one token takes."""
    return D + _SCALE_BYTES if FORMAT == "int8" else D


@triton.jit
def as_factor(x, FORMAT: tl.constexpr):
    """x in the dtype that it is multiplied with codes in: of bytes float16, into which they turn in half the time."""
    if FORMAT != "float":
        if x.dtype == tl.bfloat16:
            x = x.to(tl.float16)
    return x


@triton.jit
def load_codes(cache, place, lane, is_read, like, D: tl.constexpr, FORMAT: tl.constexpr):
    """[places, lanes] in the dtype of `like`, an `as_factor`; still to be multiplied by `load_scales` for int8; 0 where
    not is_read. The dtype holds every code exactly, so that no product depends on when the scale is applied.
    """
    stored = tl.load(cache + place[:, None] * width(D, FORMAT) + lane[None, :], mask=is_read, other=0)
    if FORMAT == "fp8":
        if like.dtype == tl.float16:
            stored = from_e4m3_as_float16(stored)
        else:
            stored = from_e4m3(stored)
    elif FORMAT == "int8":
        if like.dtype == tl.float16:
            stored = from_int8_as_float16(stored)
        else:
            stored = from_int8(stored)
    return stored


@triton.jit
def load_scales(cache, place, is_token, D: tl.constexpr):
    """Of an int8 cache, float32 [places]: the two bytes behind the components, which are the upper half of a float."""
    at = cache + place * width(D, "int8") + D
    low = tl.load(at, mask=is_token, other=0).to(tl.int32) & 255
    high = tl.load(at + 1, mask=is_token, other=0).to(tl.int32)
    return ((high << 24) | (low << 16)).to(tl.float32, bitcast=True)


@triton.jit
def int8_scale(largest):
    """The scale of numbers up to this magnitude, float32, rounded half to even to the bfloat16 that is stored."""
    bits = (largest / 127.0).to(tl.int32, bitcast=True)
    # By hand: Triton's interpreter would cut the bits off.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def store_scale(cache, place, scale, D: tl.constexpr):
    bits = scale.to(tl.int32, bitcast=True)
    at = cache + place * width(D, "int8") + D
    tl.store(at, (bits >> 16).to(tl.int8))
    tl.store(at + 1, (bits >> 24).to(tl.int8))


@triton.jit
def store_part(cache, place, lane, x, mask, scale, D: tl.constexpr, FORMAT: tl.constexpr):
    """Some components of one head, float32 [lanes]; `scale` is int8's."""
    at = cache + place * width(D, FORMAT) + lane
    if FORMAT == "int8":
        codes = x * (1.0 / tl.where(scale == 0.0, 1.0, scale))
        codes = tl.minimum(tl.maximum((codes + 12582912.0) - 12582912.0, -127.0), 127.0)
        tl.store(at, codes.to(tl.int8), mask=mask)
    elif FORMAT == "fp8":
        tl.store(at, to_e4m3(x), mask=mask)
    else:
        tl.store(at, x.to(cache.dtype.element_ty), mask=mask)
