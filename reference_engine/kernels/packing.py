"""Weights in the order in which the C++ kernels read them: one stream of bytes per panel of 64 outputs."""

from __future__ import annotations

import mmap

import torch
import torch.nn.functional as F

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.quantization.group_wise import (
    GROUP_SIZE,
    QuantizedWeight,
    as_quantized,
    rounds_activations,
)

PANEL = 64
FORMATS = {  # csrc/kernels.h
    "float32": 0,
    "bfloat16": 1,
    "int8": 2,
    "int4": 3,
    "fp8": 4,
    "int8-weight-only": 5,
    "int4-weight-only": 6,
}


def pack(
    weight: torch.Tensor | QuantizedWeight, quantization: QuantizationName | None, *, pairs: bool
) -> tuple[torch.Tensor, int]:
    """[num_panels, num_groups, bytes] uint8 and the format's number.

    weight [out_features, in_features], float32 or bfloat16, kept as it is without quantization. `pairs`: the first half
    of the rows are SwiGLU gates and the second half their ups; a panel then holds 32 gates and the same 32 ups.
    """
    quantized = as_quantized(weight, quantization)
    if quantized is None:
        assert isinstance(weight, torch.Tensor)
        return _stored(_pack_floats(weight, pairs)), FORMATS[str(weight.dtype).removeprefix("torch.")]
    quantization = quantized.scheme
    # [panel, output, group, input] throughout
    scales = arrange_rows(quantized.scales, pairs).transpose(1, 2).contiguous()
    codes = arrange_rows(quantized.codes.view(torch.int8), pairs)
    codes = codes.view(*scales.shape[:1], PANEL, scales.shape[1], GROUP_SIZE)
    if not rounds_activations(quantization):
        by_input = codes.view(torch.uint8).permute(0, 2, 3, 1)
        if quantization == "int4-weight-only":
            by_input = ((by_input[:, :, 0::2] + 8) & 15) | (((by_input[:, :, 1::2] + 8) & 15) << 4)
        by_input = by_input.flatten(2)
        return _stored(torch.cat((by_input, scales.view(torch.uint8)), dim=-1)), FORMATS[quantization]
    if quantization == "int8":
        fours = (codes.to(torch.int16) + 128).to(torch.uint8).view(*codes.shape[:3], -1, 4)
    else:
        eights = (codes + 8).to(torch.uint8).view(*codes.shape[:3], -1, 2, 4)
        fours = eights[..., 0, :] | (eights[..., 1, :] << 4)
    integers = fours.permute(0, 2, 3, 1, 4).flatten(2)
    return _stored(torch.cat((integers, scales.view(torch.uint8)), dim=-1)), FORMATS[quantization]


def arrange_rows(x: torch.Tensor, pairs: bool) -> torch.Tensor:
    """x [out_features, ...] as [num_panels, PANEL, ...], padded with zeros."""
    if not pairs:
        return _cut_rows(x, PANEL)
    gates, ups = (_cut_rows(half, PANEL // 2) for half in x.chunk(2))
    return torch.cat((gates, ups), dim=1)


def _pack_floats(weight: torch.Tensor, pairs: bool) -> torch.Tensor:
    columns = F.pad(weight, (0, -weight.shape[1] % GROUP_SIZE))
    rows = arrange_rows(columns, pairs)
    per_lane = 4 // weight.itemsize
    lanes = rows.view(*rows.shape[:2], -1, GROUP_SIZE // per_lane, per_lane)
    return lanes.permute(0, 2, 3, 1, 4).flatten(2).contiguous().view(torch.uint8)


def _cut_rows(x: torch.Tensor, size: int) -> torch.Tensor:
    """x [rows, ...] as [pieces, size, ...], padded with zeros."""
    missing = -x.shape[0] % size
    padded = torch.cat((x, x.new_zeros(missing, *x.shape[1:]))) if missing else x
    return padded.view(-1, size, *x.shape[1:])


def _stored(packed: torch.Tensor) -> torch.Tensor:
    """A copy in huge pages where the system has them: a decode step reads every weight, and each 4 KiB page anew."""
    memory = mmap.mmap(-1, packed.numel(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8).view(packed.shape).copy_(packed)
