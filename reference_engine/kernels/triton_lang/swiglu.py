"""silu(gate) · up of a fused projection's halves."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024


@triton.jit
def swiglu_kernel(gate_up, out, num_columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < num_columns
    gate = tl.load(gate_up + row * 2 * num_columns + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * num_columns + num_columns + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * num_columns + columns, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """[T, 2 C], gates before ups, to [T, C] in the same dtype."""
    num_columns = gate_up.shape[1] // 2
    out = torch.empty((gate_up.shape[0], num_columns), dtype=gate_up.dtype, device=gate_up.device)
    grid = (gate_up.shape[0], triton.cdiv(num_columns, _BLOCK))
    swiglu_kernel[grid](gate_up.contiguous(), out, num_columns, BLOCK=_BLOCK)
    return out
