"""Linear layers: plain, and several that read the same input fused into one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class Linear(nn.Module):
    """x [..., in_features] to [..., out_features]. The weights are uninitialised until a checkpoint is loaded."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype), requires_grad=False) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)

    def views(self, name: str) -> dict[str, torch.Tensor]:
        """Checkpoint tensor name to the memory it is loaded into."""
        return self._row_views(name, 0, self.weight.shape[0])

    def _row_views(self, name: str, start: int, num_rows: int) -> dict[str, torch.Tensor]:
        views = {f"{name}.weight": self.weight[start : start + num_rows]}
        if self.bias is not None:
            views[f"{name}.bias"] = self.bias[start : start + num_rows]
        return views


class FusedLinear(Linear):
    """Linears of one input, stacked by rows: one matrix product instead of several smaller ones."""

    def __init__(self, in_features: int, out_features: Sequence[int], *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__(in_features, sum(out_features), bias=bias, dtype=dtype)
        self.out_features = tuple(out_features)

    def part_views(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """As `views`, for the checkpoint's separate linears in the order in which they are stacked."""
        views: dict[str, torch.Tensor] = {}
        start = 0
        for name, num_rows in zip(names, self.out_features, strict=True):
            views |= self._row_views(name, start, num_rows)
            start += num_rows
        return views
