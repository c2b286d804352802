"""Weights in 8 or 4 bits: 64 neighbouring inputs of one output share a scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.quantization.kv_formats import FP8

GROUP_SIZE = 64
# Lowest and highest code.
CODES: dict[QuantizationName, tuple[int, int]] = {
    "int8": (-127, 127),
    "int8-weight-only": (-127, 127),
    "int4": (-8, 7),
    "int4-weight-only": (-8, 7),
    "fp8": (-448, 448),
}


class QuantizedWeight(NamedTuple):
    """codes [out_features, num_groups * GROUP_SIZE] int8, float8_e4m3fn for fp8, zero beyond the weight's own columns;
    scales bfloat16 [out_features, num_groups]. A weight is code * scale."""

    codes: torch.Tensor
    scales: torch.Tensor
    scheme: QuantizationName

    def with_rows(self, order: torch.Tensor) -> QuantizedWeight:
        """Of the outputs order[0], order[1], …"""
        return self._replace(codes=self.codes[order], scales=self.scales[order])


def quantize(weight: torch.Tensor, scheme: QuantizationName) -> QuantizedWeight:
    """The nearest codes: [-127, 127] for int8, [-8, 7] for int4, up to ±448 for fp8.

    The scale is rounded to bfloat16 first and the codes are chosen for the rounded one. In int4 it bears the sign that
    puts the group's largest magnitude at -8, where there is one level more than on the other side.
    """
    groups = _grouped(weight)
    low, high = CODES[scheme]
    scales = group_scales(groups, scheme)
    inverse = torch.where(scales == 0, 0.0, 1.0 / scales.float())
    codes = groups * inverse
    if scheme == "fp8":
        return QuantizedWeight(codes.clamp_(low, high).to(FP8).flatten(1), scales.squeeze(-1), scheme)
    return QuantizedWeight(codes.round_().clamp_(low, high).to(torch.int8).flatten(1), scales.squeeze(-1), scheme)


def as_quantized(weight: torch.Tensor | QuantizedWeight, scheme: QuantizationName | None) -> QuantizedWeight | None:
    """A weight that is quantised already, or that `scheme` asks to be; None for one that stays as it is."""
    if isinstance(weight, QuantizedWeight):
        return weight
    return None if scheme is None else quantize(weight, scheme)


def group_scales(groups: torch.Tensor, scheme: QuantizationName) -> torch.Tensor:
    """bfloat16 [..., 1] for groups of weights [..., GROUP_SIZE]: the largest magnitude gets the lowest code."""
    index = groups.abs().argmax(dim=-1, keepdim=True)
    return (groups.gather(-1, index) / CODES[scheme][0]).bfloat16()


def rounds_activations(scheme: QuantizationName) -> bool:
    """Whether a layer's inputs are rounded to 8 bits too (see `round_activations`), for a product of integers."""
    return scheme in ("int8", "int4")


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
    return padded.view(*x.shape[:-1], padded.shape[-1] // GROUP_SIZE, GROUP_SIZE)
