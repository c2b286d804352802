"""x · Wᵀ for one or two rows, weights of every format, in one launch with the norm before it and all that follows.

So few rows take as long as reading the weights does, and no matrix unit reads faster: each program multiplies a few of
the weight's rows as vectors. What a larger product hides costs a decode step a launch, a few microseconds each, so
norm, rounding, activation and residual are computed on the way.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmbench.reference_engine.kernels.triton_lang.byte_numbers import from_e4m3, from_int8
from llmbench.reference_engine.kernels.triton_lang.linear_epilogue import store_outputs
from llmbench.reference_engine.kernels.triton_lang.packed_weight import PackedWeight
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE, rounds_activations

# Each row reads the weights again, from the second on out of the cache.
MAX_ROWS = 2


@triton.jit
def _sum_products(
    low,
    high,
    codes,
    scales,
    column,
    is_column,
    group,
    num_groups,
    num_weight_rows,
    num_inputs,
    FORMAT: tl.constexpr,
    GROUP: tl.constexpr,
):
    """[columns, groups]: the sum of each group's products; low, high [groups, GROUP // 2] are the inputs' halves."""
    HALF: tl.constexpr = GROUP // 2
    half = tl.arange(0, HALF)
    is_there = (is_column[:, None] & (group < num_groups)[None, :])[:, :, None]
    if FORMAT == "float":
        place = group[None, :, None] * GROUP + half[None, None, :]
        at = codes + column[:, None, None] * num_inputs + place
        low_weights = tl.load(at, mask=is_there & (place < num_inputs), other=0.0).to(tl.float32)
        high_weights = tl.load(at + HALF, mask=is_there & (place + HALF < num_inputs), other=0.0).to(tl.float32)
    elif FORMAT == "int4":
        at = (column[:, None, None] * num_groups + group[None, :, None]) * HALF + half[None, None, :]
        both = tl.load(codes + at, mask=is_there, other=0)
        # Shifts of a signed byte carry the sign of the half that is on top.
        low_weights = from_int8((both << 4).to(tl.int8) >> 4)
        high_weights = from_int8(both >> 4)
    else:
        at = codes + (column[:, None, None] * num_groups + group[None, :, None]) * GROUP + half[None, None, :]
        low_weights = tl.load(at, mask=is_there, other=0)
        high_weights = tl.load(at + HALF, mask=is_there, other=0)
        if FORMAT == "fp8":
            low_weights = from_e4m3(low_weights)
            high_weights = from_e4m3(high_weights)
        else:
            low_weights = from_int8(low_weights)
            high_weights = from_int8(high_weights)
    sums = tl.sum(low[None, :, :] * low_weights + high[None, :, :] * high_weights, axis=2)
    if FORMAT != "float":
        at = scales + group[None, :] * num_weight_rows + column[:, None]
        is_scale = is_column[:, None] & (group < num_groups)[None, :]
        sums *= tl.load(at, mask=is_scale, other=0.0).to(tl.float32)
    return sums


@triton.jit
def gemv_kernel(
    x,
    gain,
    codes,
    scales,
    bias,
    residual,
    out,
    x_stride,
    num_inputs,
    num_outputs,
    num_groups,
    eps,
    FORMAT: tl.constexpr,
    ROUNDS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    IS_GATED: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """FORMAT: float, int8, int4 or fp8. ROUNDS: the inputs are rounded to 8 bits, in groups as the weights are."""
    row = tl.program_id(1).to(tl.int64)
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    is_column = column < num_outputs
    num_weight_rows = num_outputs * 2 if IS_GATED else num_outputs
    HALF: tl.constexpr = GROUP // 2
    sums = tl.zeros([COLUMNS, GROUPS], tl.float32)
    ups = tl.zeros([COLUMNS, GROUPS], tl.float32)
    squares = tl.zeros([GROUPS], tl.float32)
    for start in range(0, num_groups, GROUPS):
        group = start + tl.arange(0, GROUPS)
        place = group[:, None] * GROUP + tl.arange(0, HALF)[None, :]
        at = x + row * x_stride + place
        low = tl.load(at, mask=place < num_inputs, other=0.0).to(tl.float32)
        high = tl.load(at + HALF, mask=place + HALF < num_inputs, other=0.0).to(tl.float32)
        if HAS_NORM:
            squares += tl.sum(low * low + high * high, axis=1)
            low *= tl.load(gain + place, mask=place < num_inputs, other=0.0).to(tl.float32)
            high *= tl.load(gain + place + HALF, mask=place + HALF < num_inputs, other=0.0).to(tl.float32)
        if ROUNDS:
            largest = tl.maximum(tl.max(tl.abs(low), axis=1), tl.max(tl.abs(high), axis=1))
            inverse = 127.0 / tl.where(largest == 0.0, 1.0, largest)
            # The nearest integers, half to even: the magic number rounds so without a library call.
            low = ((low * inverse[:, None] + 12582912.0) - 12582912.0) * (largest / 127.0)[:, None]
            high = ((high * inverse[:, None] + 12582912.0) - 12582912.0) * (largest / 127.0)[:, None]
        sums += _sum_products(
            low,
            high,
            codes,
            scales,
            column,
            is_column,
            group,
            num_groups,
            num_weight_rows,
            num_inputs,
            FORMAT,
            GROUP,
        )
        if IS_GATED:
            ups += _sum_products(
                low,
                high,
                codes,
                scales,
                column + num_outputs,
                is_column,
                group,
                num_groups,
                num_weight_rows,
                num_inputs,
                FORMAT,
                GROUP,
            )
    store_outputs(
        tl.sum(sums, axis=1)[None, :],
        tl.sum(ups, axis=1)[None, :],
        tl.sum(squares, axis=0) + tl.zeros([1], tl.float32),
        bias,
        residual,
        out,
        row + tl.zeros([1], tl.int64),
        column,
        row + 1,
        num_inputs,
        num_outputs,
        eps,
        HAS_NORM,
        HAS_BIAS,
        HAS_RESIDUAL,
        IS_GATED,
    )


def gemv(
    x: torch.Tensor,
    weight: torch.Tensor | PackedWeight,
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    is_gated: bool = False,
) -> torch.Tensor:
    """residual + activation(norm(x) · Wᵀ + bias), [T, out_features] in x's dtype, summed in float32.

    x [T, in_features], its rows may be strided; meant for T up to MAX_ROWS. weight [out_features, in_features] in a
    float dtype, or packed; with int8 and int4 the inputs are rounded to 8 bits per group. norm_weight [in_features]: of
    a root-mean-square norm with `eps`. is_gated: the weight's second half of rows are what silu of the first gates, and
    there are half as many outputs. Oracle: torch_kernels.TorchLinear.
    """
    T, num_inputs = x.shape
    assert x.stride(1) == 1
    num_groups = triton.cdiv(num_inputs, GROUP_SIZE)
    if isinstance(weight, PackedWeight):
        codes, scales, scheme = weight
        kind, rounds = scheme.removesuffix("-weight-only"), rounds_activations(scheme)
    else:
        codes, scales, kind, rounds = weight, x, "float", False
    num_outputs = codes.shape[0] // 2 if is_gated else codes.shape[0]
    out = torch.empty((T, num_outputs), dtype=x.dtype, device=x.device)
    columns, groups, num_warps = _shape(kind)
    groups = min(groups, triton.next_power_of_2(num_groups))
    gemv_kernel[(triton.cdiv(num_outputs, columns), T)](
        x,
        x if norm_weight is None else norm_weight,
        codes,
        scales,
        x if bias is None else bias,
        x if residual is None else residual,
        out,
        x.stride(0),
        num_inputs,
        num_outputs,
        num_groups,
        eps,
        FORMAT=kind,
        ROUNDS=rounds,
        HAS_NORM=norm_weight is not None,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        IS_GATED=is_gated,
        GROUP=GROUP_SIZE,
        GROUPS=groups,
        COLUMNS=columns,
        num_warps=num_warps,
    )
    return out


def _shape(kind: str) -> tuple[int, int, int]:
    """Columns and groups of a program's tile, and its warps: the best of an H100 over the layers of a 1.1B model."""
    return {"float": (2, 16, 2), "int8": (4, 16, 4), "int4": (4, 32, 4), "fp8": (4, 32, 4)}[kind]
