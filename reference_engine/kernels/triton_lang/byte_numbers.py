"""Numbers of one byte, int8 and e4m3 (arXiv:2209.05433), as floats and back, in integer arithmetic: the same on every
GPU, also on those whose hardware does not know e4m3, and several times faster than the conversion of a byte."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def from_int8(code):
    """The numbers of int8 codes, float32."""
    # In the low byte of a float of 2 ** 23 the number counts units, once 128 more makes it positive.
    bits = ((code.to(tl.int32) & 0xFF) ^ 0x80) | 0x4B000000
    return bits.to(tl.float32, bitcast=True) - 8388736.0


@triton.jit
def from_int8_as_float16(code):
    """The same as float16, which holds every code."""
    bits = ((code.to(tl.int16) & 0xFF) ^ 0x80) | 0x6400
    return bits.to(tl.float16, bitcast=True) - 1152.0


@triton.jit
def from_e4m3(code):
    """The numbers of uint8 codes, float32; NaN's two codes are not expected."""
    bits = code.to(tl.int32)
    # In float32's place the same bits mean 2 ** -120 of the number, subnormal ones included.
    return (((bits & 0x80) << 24) | ((bits & 0x7F) << 20)).to(tl.float32, bitcast=True) * 1.329227995784916e36


@triton.jit
def from_e4m3_as_float16(code):
    """The same as float16, which holds every code."""
    bits = code.to(tl.int16)
    return (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True) * 256.0


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
