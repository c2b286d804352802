"""Quantised weights as floats again: for many rows a float product of the whole is faster than one that converts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmbench.reference_engine.kernels.triton_lang.byte_numbers import from_e4m3, from_int8
from llmbench.reference_engine.kernels.triton_lang.packed_weight import PackedWeight
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE

_GROUPS = 16


@triton.jit
def unpack_weight_kernel(
    codes,
    scales,
    out,
    num_inputs,
    num_outputs,
    num_groups,
    FORMAT: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """FORMAT: int8, int4 or fp8. GROUPS groups of one output."""
    column = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    is_group = group < num_groups
    in_group = tl.arange(0, GROUP)
    if FORMAT == "int4":
        HALF: tl.constexpr = GROUP // 2
        at = (column * num_groups + group)[:, None] * HALF + (in_group % HALF)[None, :]
        both = tl.load(codes + at, mask=is_group[:, None], other=0).to(tl.int32)
        # Shifted to the top and back, a half carries its sign.
        numbers = ((both << (28 - 4 * (in_group // HALF))[None, :]) >> 28).to(tl.float32)
    else:
        at = (column * num_groups + group)[:, None] * GROUP + in_group[None, :]
        stored = tl.load(codes + at, mask=is_group[:, None], other=0)
        numbers = from_e4m3(stored) if FORMAT == "fp8" else from_int8(stored)
    scale = tl.load(scales + group * num_outputs + column, mask=is_group, other=0.0).to(tl.float32)
    place = group[:, None] * GROUP + in_group[None, :]
    numbers = (numbers * scale[:, None]).to(out.dtype.element_ty)
    tl.store(out + column * num_inputs + place, numbers, mask=place < num_inputs)


def unpack_weight(weight: PackedWeight, num_inputs: int, dtype: torch.dtype) -> torch.Tensor:
    """[out_features, num_inputs] in that dtype. Oracle: group_wise.dequantize."""
    num_groups, num_outputs = weight.scales.shape
    out = torch.empty((num_outputs, num_inputs), dtype=dtype, device=weight.codes.device)
    unpack_weight_kernel[(num_outputs, triton.cdiv(num_groups, _GROUPS))](
        weight.codes,
        weight.scales,
        out,
        num_inputs,
        num_outputs,
        num_groups,
        FORMAT=weight.scheme.removesuffix("-weight-only"),
        GROUP=GROUP_SIZE,
        GROUPS=_GROUPS,
    )
    return out
