"""What a linear kernel does with its sums before it stores them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def store_outputs(
    sums,
    ups,
    squares,
    bias,
    residual,
    out,
    row,
    column,
    num_rows,
    num_inputs,
    num_outputs,
    eps,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    IS_GATED: tl.constexpr,
):
    """residual + activation(sums / rms + bias) of a tile [rows, columns]; with a gate silu(sums) · ups.

    squares: each row's sum of squared inputs. The root mean square divides the sums and not the inputs: it is known
    when all inputs are read, and that is when the sums are complete.
    """
    inside = (row < num_rows)[:, None] & (column < num_outputs)[None, :]
    if HAS_NORM:
        scale = tl.rsqrt(squares / num_inputs + eps)
        sums *= scale[:, None]
        if IS_GATED:
            ups *= scale[:, None]
    if HAS_BIAS:
        sums += tl.load(bias + column, mask=column < num_outputs, other=0.0).to(tl.float32)[None, :]
        if IS_GATED:
            ups += tl.load(bias + num_outputs + column, mask=column < num_outputs, other=0.0).to(tl.float32)[None, :]
    if IS_GATED:
        sums = sums * tl.sigmoid(sums) * ups
    at = row[:, None] * num_outputs + column[None, :]
    if HAS_RESIDUAL:
        sums += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=inside)
