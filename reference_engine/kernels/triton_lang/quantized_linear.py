"""x · Wᵀ with weights of 8 bits, integers or e4m3, or of 4, a scale per 64 of them; inputs as they are or rounded to 8
bits, a scale per 64 of those too. Few rows or outputs are split over the inputs, and their parts added."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmbench.reference_engine.kernels.triton_lang.byte_numbers import from_e4m3, from_int8
from llmbench.reference_engine.kernels.triton_lang.linear_epilogue import store_outputs
from llmbench.reference_engine.kernels.triton_lang.packed_weight import PackedWeight
from llmbench.reference_engine.kernels.triton_lang.processors import num_processors
from llmbench.reference_engine.kernels.triton_lang.rms_norm import rms_norm
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE, rounds_activations

# Programs to a multiprocessor that a product of few outputs is split into, over its inputs.
_PROGRAMS_PER_PROCESSOR = 4
_MAX_SPLITS = 8


@triton.jit
def round_rows_kernel(
    x,
    gain,
    codes,
    scales,
    x_stride,
    num_columns,
    num_groups,
    eps,
    HAS_NORM: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """One row, GROUPS groups wide: a power of two of at least num_groups."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUPS)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = column < num_columns
    values = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        inverse = tl.rsqrt(tl.sum(tl.sum(values * values, axis=1), axis=0) / num_columns + eps)
        values = values * inverse * tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.div_rn(tl.max(tl.abs(values), axis=1), tl.full([GROUPS], 127.0, tl.float32))
    scaled = tl.div_rn(values, tl.where(scale == 0.0, 1.0, scale)[:, None] + tl.zeros_like(values))
    # The nearest codes, half to even: the magic number rounds so without a library call.
    rounded = ((scaled + 12582912.0) - 12582912.0).to(tl.int8)
    tl.store(codes + row * num_groups * GROUP + column, rounded, mask=(group < num_groups)[:, None])
    tl.store(scales + row * num_groups + group, scale, mask=group < num_groups)


@triton.jit
def _load_weights(
    codes, column, group, num_groups, is_there, dtype: tl.constexpr, FORMAT: tl.constexpr, GROUP: tl.constexpr
):
    """Both halves of a group's codes, [GROUP // 2, columns] each."""
    HALF: tl.constexpr = GROUP // 2
    half = tl.arange(0, HALF)
    if FORMAT == "int4":
        both = tl.load(codes + (column[None, :] * num_groups + group) * HALF + half[:, None], mask=is_there, other=0)
        # Shifts of a signed byte carry the sign of the half that is on top.
        low = (both << 4).to(tl.int8) >> 4
        high = both >> 4
    else:
        at = codes + (column[None, :] * num_groups + group) * GROUP + half[:, None]
        low = tl.load(at, mask=is_there, other=0)
        high = tl.load(at + HALF, mask=is_there, other=0)
    if FORMAT == "fp8":
        low = from_e4m3(low)
        high = from_e4m3(high)
    elif dtype != tl.int8:
        low = from_int8(low)
        high = from_int8(high)
    return low.to(dtype), high.to(dtype)


@triton.jit
def _multiply(low, high, weights_low, weights_high):
    """Of integers an exact sum, of floats one in float32."""
    if low.dtype == tl.int8:
        products = tl.dot(low, weights_low, out_dtype=tl.int32)
        products = tl.dot(high, weights_high, products, out_dtype=tl.int32)
    else:
        products = tl.dot(low, weights_low, input_precision="ieee")
        products = tl.dot(high, weights_high, products, input_precision="ieee")
    return products.to(tl.float32)


# One machine code for all numbers of rows.
@triton.jit(do_not_specialize=["num_rows"])
def quantized_linear_kernel(
    x,
    x_scales,
    codes,
    scales,
    bias,
    residual,
    out,
    num_rows,
    x_stride,
    num_inputs,
    num_outputs,
    num_groups,
    FORMAT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    GROUP: tl.constexpr,
    STEP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """FORMAT: int8, int4 or fp8. x: floats, or 8-bit codes with the scales x_scales. Split over the third dimension of
    the grid, each part [num_rows, num_outputs] behind the one before it."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    is_row = row < num_rows
    is_column = column < num_outputs
    HALF: tl.constexpr = GROUP // 2
    groups_per_split = tl.cdiv(tl.cdiv(num_groups, STEP), tl.num_programs(2)) * STEP
    first_group = tl.program_id(2) * groups_per_split
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(first_group, tl.minimum(first_group + groups_per_split, num_groups), STEP):
        # Several groups to a turn keep enough bytes on their way.
        for offset in tl.static_range(STEP):
            group = start + offset
            # Beyond the last group nothing is there; a comparison of vectors, as the interpreter needs it.
            is_there = is_column & (column < (num_groups - group) * num_outputs)
            place = group * GROUP + tl.arange(0, HALF)
            at = x + row[:, None] * x_stride + place[None, :]
            low = tl.load(at, mask=is_row[:, None] & (place < num_inputs)[None, :], other=0)
            high = tl.load(at + HALF, mask=is_row[:, None] & (place + HALF < num_inputs)[None, :], other=0)
            weights_low, weights_high = _load_weights(
                codes, column, group, num_groups, is_there[None, :], low.dtype, FORMAT, GROUP
            )
            scale = tl.load(scales + group * num_outputs + column, mask=is_there, other=0.0).to(tl.float32)[None, :]
            if x.dtype.element_ty == tl.int8:
                is_read = is_row & (row < (num_groups - group) * num_rows)
                scale = scale * tl.load(x_scales + row * num_groups + group, mask=is_read, other=0.0)[:, None]
            sums += _multiply(low, high, weights_low, weights_high) * scale
    store_outputs(
        sums,
        sums,
        sums,
        bias,
        residual,
        out + tl.program_id(2).to(tl.int64) * num_rows * num_outputs,
        row,
        column,
        num_rows,
        num_inputs,
        num_outputs,
        0.0,
        False,
        HAS_BIAS,
        HAS_RESIDUAL,
        False,
    )


@triton.jit(do_not_specialize=["num_rows"])
def add_parts_kernel(
    parts,
    bias,
    residual,
    out,
    num_rows,
    num_outputs,
    num_splits,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    IS_GATED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    is_column = column < num_outputs
    num_columns = num_outputs * 2 if IS_GATED else num_outputs
    sums = tl.zeros([COLUMNS], tl.float32)
    ups = tl.zeros([COLUMNS], tl.float32)
    for split in range(num_splits):
        at = parts + (split * num_rows + row) * num_columns + column
        sums += tl.load(at, mask=is_column, other=0.0).to(tl.float32)
        if IS_GATED:
            ups += tl.load(at + num_outputs, mask=is_column, other=0.0).to(tl.float32)
    store_outputs(
        sums[None, :],
        ups[None, :],
        sums,
        bias,
        residual,
        out,
        row + tl.zeros([1], tl.int64),
        column,
        num_rows,
        1,
        num_outputs,
        0.0,
        False,
        HAS_BIAS,
        HAS_RESIDUAL,
        IS_GATED,
    )


def quantized_linear(
    x: torch.Tensor,
    weight: PackedWeight,
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    is_gated: bool = False,
) -> torch.Tensor:
    """residual + activation(norm(x) · Wᵀ + bias), [T, out_features] in x's dtype.

    x [T, in_features], its rows may be strided. For int8 and int4 the inputs are rounded to 8 bits per row and group,
    and products summed as integers within a group, in float32 across groups; for the other schemes all is summed in
    float32. norm_weight, eps, bias, residual and is_gated as in gemv. Oracle: group_wise.dequantize, and
    group_wise.round_activations.
    """
    T = len(x)
    assert x.stride(1) == 1
    num_groups, num_columns = weight.scales.shape
    num_outputs = num_columns // 2 if is_gated else num_columns
    out = torch.empty((T, num_outputs), dtype=x.dtype, device=x.device)
    if T == 0:
        return out
    x_scales = x
    if rounds_activations(weight.scheme):
        x, x_scales = _rounded(x, num_groups, norm_weight, eps)
    elif norm_weight is not None:
        x = rms_norm(x, norm_weight, eps)
    rows, columns, step, num_warps, num_stages = _shape(T, x.dtype)
    grid = (triton.cdiv(T, rows), triton.cdiv(num_columns, columns))
    wanted = triton.cdiv(_PROGRAMS_PER_PROCESSOR * num_processors(x.device), grid[0] * grid[1])
    num_splits = min(wanted, _MAX_SPLITS, triton.cdiv(num_groups, step))
    is_whole = num_splits == 1 and not is_gated
    dtype = torch.float32 if num_splits > 1 else out.dtype
    parts = out if is_whole else torch.empty((num_splits, T, num_columns), dtype=dtype, device=x.device)
    quantized_linear_kernel[(*grid, num_splits)](
        x,
        x_scales,
        weight.codes,
        weight.scales,
        x if bias is None else bias,
        x if residual is None else residual,
        parts,
        T,
        x.stride(0),
        x.shape[1],
        num_columns,
        num_groups,
        FORMAT=weight.scheme.removesuffix("-weight-only"),
        HAS_BIAS=is_whole and bias is not None,
        HAS_RESIDUAL=is_whole and residual is not None,
        GROUP=GROUP_SIZE,
        STEP=step,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=num_warps,
        num_stages=num_stages,
    )
    if not is_whole:
        add_parts_kernel[(T, triton.cdiv(num_outputs, 512))](
            parts,
            x if bias is None else bias,
            x if residual is None else residual,
            out,
            T,
            num_outputs,
            num_splits,
            HAS_BIAS=bias is not None,
            HAS_RESIDUAL=residual is not None,
            IS_GATED=is_gated,
            COLUMNS=512,
        )
    return out


def _rounded(
    x: torch.Tensor, num_groups: int, norm_weight: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """norm(x) as codes int8 [T, groups * 64] and scales float32 [T, groups]."""
    codes = torch.empty((x.shape[0], num_groups * GROUP_SIZE), dtype=torch.int8, device=x.device)
    scales = torch.empty((x.shape[0], num_groups), dtype=torch.float32, device=x.device)
    round_rows_kernel[(x.shape[0],)](
        x,
        x if norm_weight is None else norm_weight,
        codes,
        scales,
        x.stride(0),
        x.shape[1],
        num_groups,
        eps,
        HAS_NORM=norm_weight is not None,
        GROUP=GROUP_SIZE,
        GROUPS=triton.next_power_of_2(num_groups),
        num_warps=8,
    )
    return codes, scales


def _shape(T: int, dtype: torch.dtype) -> tuple[int, int, int, int, int]:
    """Rows, columns and groups to a turn of a program's tile, its warps, and its stages in flight."""
    if dtype == torch.float32:
        return 16 if T <= 16 else 64, 64, 1, 4, 1
    if T <= 16:
        return 16, 64, 1, 4, 4
    if T <= 64:
        return 64, 64, 1, 4, 3
    return 128, 128, 1, 8, 3
