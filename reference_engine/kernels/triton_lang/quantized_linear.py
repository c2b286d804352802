"""x · Wᵀ with 8-bit inputs and 8- or 4-bit weights, a scale per 64 of them. Not yet run on a GPU: see docs/gpu.md."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE, QuantizedWeight

_ROWS = 16
_COLUMNS = 64


class PackedWeight(NamedTuple):
    """codes int8 [out_features, groups * 64], uint8 the bytes of e4m3 numbers for fp8; of 4 bits two to a byte
    [out_features, groups * 32]: in a group, code i in the low and code i + 32 in the high half of byte i. scales
    float32 [out_features, groups]."""

    codes: torch.Tensor
    scales: torch.Tensor
    scheme: QuantizationName


def pack(weight: QuantizedWeight) -> PackedWeight:
    """The weight as the kernel for its scheme reads it, this one or weight_only_linear."""
    codes = weight.codes
    if weight.scheme in ("int4", "int4-weight-only"):
        groups = codes.view(codes.shape[0], -1, GROUP_SIZE)
        low, high = groups[..., : GROUP_SIZE // 2], groups[..., GROUP_SIZE // 2 :]
        codes = ((low & 15) | (high << 4)).flatten(1).contiguous()
    elif weight.scheme == "fp8":
        codes = codes.view(torch.uint8)
    return PackedWeight(codes, weight.scales.float(), weight.scheme)


@triton.jit
def round_rows_kernel(x, codes, scales, num_columns, num_groups, GROUP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    column = group * GROUP + tl.arange(0, GROUP)
    values = tl.load(x + row * num_columns + column, mask=column < num_columns, other=0.0).to(tl.float32)
    scale = tl.max(tl.abs(values), axis=0) / 127.0
    # Half to even would be the oracle's rounding; the magic number rounds so without a library call.
    scaled = values / tl.where(scale == 0.0, 1.0, scale)
    rounded = (scaled + 12582912.0) - 12582912.0
    tl.store(codes + (row * num_groups + group) * GROUP + tl.arange(0, GROUP), rounded.to(tl.int8))
    tl.store(scales + row * num_groups + group, scale)


@triton.jit
def quantized_linear_kernel(
    x_codes,
    x_scales,
    w_codes,
    w_scales,
    out,
    num_rows,
    num_outputs,
    num_groups,
    GROUP: tl.constexpr,
    IS_INT4: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    is_row = row < num_rows
    is_column = column < num_outputs
    HALF: tl.constexpr = GROUP // 2
    half = tl.arange(0, HALF)
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for group in range(num_groups):
        at = x_codes + (row[:, None] * num_groups + group) * GROUP + half[None, :]
        x_low = tl.load(at, mask=is_row[:, None], other=0)
        x_high = tl.load(at + HALF, mask=is_row[:, None], other=0)
        if IS_INT4:
            packed = tl.load(
                w_codes + (column[None, :] * num_groups + group) * HALF + half[:, None],
                mask=is_column[None, :],
                other=0,
            )
            # Shifts of a signed byte carry the sign of the half that is on top.
            w_low = (packed << 4).to(tl.int8) >> 4
            w_high = packed >> 4
        else:
            there = w_codes + (column[None, :] * num_groups + group) * GROUP + half[:, None]
            w_low = tl.load(there, mask=is_column[None, :], other=0)
            w_high = tl.load(there + HALF, mask=is_column[None, :], other=0)
        products = tl.dot(x_low, w_low, out_dtype=tl.int32) + tl.dot(x_high, w_high, out_dtype=tl.int32)
        x_scale = tl.load(x_scales + row * num_groups + group, mask=is_row, other=0.0)
        w_scale = tl.load(w_scales + column * num_groups + group, mask=is_column, other=0.0)
        acc += products.to(tl.float32) * x_scale[:, None] * w_scale[None, :]
    tl.store(
        out + row[:, None] * num_outputs + column[None, :],
        acc.to(out.dtype.element_ty),
        mask=is_row[:, None] & is_column[None, :],
    )


def quantized_linear(x: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
    """x [T, in_features] times the weight, [T, out_features] in x's dtype.

    The inputs are rounded to 8 bits per row and group; products are summed as integers within a group, in float32
    across groups. Oracle: group_wise.round_activations and group_wise.dequantize.
    """
    T, in_features = x.shape
    num_outputs, num_groups = weight.scales.shape
    codes = torch.empty((T, num_groups * GROUP_SIZE), dtype=torch.int8, device=x.device)
    scales = torch.empty((T, num_groups), dtype=torch.float32, device=x.device)
    round_rows_kernel[(T, num_groups)](x.contiguous(), codes, scales, in_features, num_groups, GROUP=GROUP_SIZE)
    out = torch.empty((T, num_outputs), dtype=x.dtype, device=x.device)
    quantized_linear_kernel[(triton.cdiv(T, _ROWS), triton.cdiv(num_outputs, _COLUMNS))](
        codes,
        scales,
        weight.codes,
        weight.scales,
        out,
        T,
        num_outputs,
        num_groups,
        GROUP=GROUP_SIZE,
        IS_INT4=weight.scheme == "int4",
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
    )
    return out
