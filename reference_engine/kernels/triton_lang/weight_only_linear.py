"""x · Wᵀ with weights of 8 bits, integers or e4m3, or of 4, a scale per 64 of them, and inputs as they are. Not yet run
on a GPU: see docs/gpu.md."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmbench.reference_engine.kernels.triton_lang.float8 import from_e4m3
from llmbench.reference_engine.kernels.triton_lang.quantized_linear import PackedWeight
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE

_COLUMNS = 64
# tl.dot needs 16 rows; more of them read the weights less often.
_FEW_ROWS, _MANY_ROWS = 16, 64


@triton.jit
def weight_only_linear_kernel(
    x,
    w_codes,
    w_scales,
    out,
    num_rows,
    num_inputs,
    num_outputs,
    num_groups,
    GROUP: tl.constexpr,
    IS_FP8: tl.constexpr,
    IS_INT4: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    is_row = row < num_rows
    is_column = column < num_outputs
    HALF: tl.constexpr = GROUP // 2
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for group in range(num_groups):
        place = group * GROUP + tl.arange(0, GROUP)
        inputs = tl.load(
            x + row[:, None] * num_inputs + place[None, :],
            mask=is_row[:, None] & (place < num_inputs)[None, :],
            other=0.0,
        )
        if IS_INT4:
            # Input i of a group is in the low half of byte i, or for the second 32 in the high half of byte i - 32:
            # shifted to the top and back, it carries its sign.
            in_group = tl.arange(0, GROUP)
            at = (column[None, :] * num_groups + group) * HALF + (in_group % HALF)[:, None]
            both = tl.load(w_codes + at, mask=is_column[None, :], other=0).to(tl.int32)
            codes = (both << (28 - 4 * (in_group // HALF))[:, None]) >> 28
        else:
            codes = tl.load(
                w_codes + column[None, :] * (num_groups * GROUP) + place[:, None], mask=is_column[None, :], other=0
            )
        if IS_FP8:
            codes = from_e4m3(codes)
        # bfloat16 holds the codes of every format exactly; the scale waits until the group is summed.
        products = tl.dot(inputs, codes.to(inputs.dtype), input_precision="ieee")
        acc += products * tl.load(w_scales + column * num_groups + group, mask=is_column, other=0.0)[None, :]
    tl.store(
        out + row[:, None] * num_outputs + column[None, :],
        acc.to(out.dtype.element_ty),
        mask=is_row[:, None] & is_column[None, :],
    )


def weight_only_linear(x: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
    """x [T, in_features] times the weight, [T, out_features] in x's dtype, summed in float32.

    weight: of scheme int8-weight-only, int4-weight-only or fp8. Oracle: x in float32 and group_wise.dequantize.
    """
    T, in_features = x.shape
    num_outputs, num_groups = weight.scales.shape
    out = torch.empty((T, num_outputs), dtype=x.dtype, device=x.device)
    rows = _FEW_ROWS if T <= _FEW_ROWS else _MANY_ROWS
    weight_only_linear_kernel[(triton.cdiv(T, rows), triton.cdiv(num_outputs, _COLUMNS))](
        x.contiguous(),
        weight.codes,
        weight.scales,
        out,
        T,
        in_features,
        num_outputs,
        num_groups,
        GROUP=GROUP_SIZE,
        IS_FP8=weight.scheme == "fp8",
        IS_INT4=weight.scheme == "int4-weight-only",
        ROWS=rows,
        COLUMNS=_COLUMNS,
    )
    return out
