"""Quantised weights in the order in which the kernels of this folder read them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE, QuantizedWeight


class PackedWeight(NamedTuple):
    """codes int8 [out_features, groups * 64], uint8 the bytes of e4m3 numbers for fp8; of 4 bits two to a byte
    [out_features, groups * 32]: in a group, code i in the low and code i + 32 in the high half of byte i. scales
    bfloat16 [groups, out_features]: neighbouring outputs read neighbouring ones."""

    codes: torch.Tensor
    scales: torch.Tensor
    scheme: QuantizationName


def pack(weight: QuantizedWeight) -> PackedWeight:
    codes = weight.codes
    if weight.scheme in ("int4", "int4-weight-only"):
        groups = codes.view(codes.shape[0], -1, GROUP_SIZE)
        low, high = groups[..., : GROUP_SIZE // 2], groups[..., GROUP_SIZE // 2 :]
        codes = ((low & 15) | (high << 4)).flatten(1).contiguous()
    elif weight.scheme == "fp8":
        codes = codes.view(torch.uint8)
    return PackedWeight(codes, weight.scales.bfloat16().T.contiguous(), weight.scheme)
