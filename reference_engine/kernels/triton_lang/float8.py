"""e4m3 numbers (arXiv:2209.05433) as bytes, in plain integer arithmetic: the same on every GPU, also on those whose
hardware does not know the format. Not yet run on a GPU: see docs/gpu.md."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def from_e4m3(code):
    """The numbers of uint8 codes, float32; NaN's two codes are not expected."""
    bits = code.to(tl.int16)
    # In float16's place the same bits mean 2 ** -8 of the number, subnormal ones included.
    half = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
    return half.to(tl.float16, bitcast=True).to(tl.float32) * 256.0


@triton.jit
def to_e4m3(x):
    """The nearest codes, uint8, to float32 numbers, half to even and at most ±448."""
    magnitude = tl.minimum(tl.abs(x), 448.0)
    bits = magnitude.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20
    normal = rounded - (127 - 7) * 8
    # Below 2 ** -6 the codes count multiples of 2 ** -9; the magic number rounds without a library call.
    subnormal = ((magnitude * 512.0 + 12582912.0) - 12582912.0).to(tl.int32)
    code = tl.where(magnitude < 0.015625, subnormal, normal)
    return (code | ((x.to(tl.int32, bitcast=True) >> 24) & 0x80)).to(tl.uint8)
