"""Weights as small integers: 64 neighbouring inputs of one output share a scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from llmbench.reference_engine.config import QuantizationName

GROUP_SIZE = 64


class QuantizedWeight(NamedTuple):
    """codes int8 [out_features, num_groups * GROUP_SIZE], zero beyond the weight's own columns; scales bfloat16
    [out_features, num_groups]. A weight is code * scale."""

    codes: torch.Tensor
    scales: torch.Tensor
    scheme: QuantizationName


def quantize(weight: torch.Tensor, scheme: QuantizationName) -> QuantizedWeight:
    """The nearest codes: [-127, 127] for int8, [-8, 7] for int4.

    The scale is rounded to bfloat16 first and the codes are chosen for the rounded one. In int4 it bears the sign that
    puts the group's largest magnitude at -8, where there is one level more than on the other side.
    """
    groups = _grouped(weight)
    index = groups.abs().argmax(dim=-1, keepdim=True)
    extreme = groups.gather(-1, index)
    low, high = (-127, 127) if scheme == "int8" else (-8, 7)
    scales = (extreme / low).bfloat16()
    inverse = torch.where(scales == 0, 0.0, 1.0 / scales.float())
    codes = (groups * inverse).round_().clamp_(low, high).to(torch.int8)
    return QuantizedWeight(codes.flatten(1), scales.squeeze(-1), scheme)


def dequantize(weight: QuantizedWeight, in_features: int) -> torch.Tensor:
    """float32 [out_features, in_features]."""
    groups = _grouped(weight.codes) * weight.scales.float().unsqueeze(-1)
    return groups.flatten(1)[:, :in_features]


def round_activations(x: torch.Tensor) -> torch.Tensor:
    """x [..., in_features] float32 as 8-bit integers can say it: one scale per row and group, the largest is 127."""
    groups = _grouped(x)
    scales = groups.abs().amax(dim=-1, keepdim=True) / 127.0
    codes = torch.where(scales == 0, 0.0, groups / scales).round()
    return (codes * scales).flatten(-2)[..., : x.shape[-1]]


def _grouped(x: torch.Tensor) -> torch.Tensor:
    padded = F.pad(x.float(), (0, -x.shape[-1] % GROUP_SIZE))
    return padded.view(*x.shape[:-1], -1, GROUP_SIZE)
