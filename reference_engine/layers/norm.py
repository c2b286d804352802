"""The weights of a normalisation; it is computed by the linear that reads its result."""

from __future__ import annotations

import torch

from llmbench.reference_engine.kernels.contract import NormWeights


class Norm:
    """RMSNorm, x / sqrt(mean(x²) + eps) * weight (arXiv:1910.07467), or with a bias LayerNorm (arXiv:1607.06450)."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype, *, bias: bool = False) -> None:
        self.weight = torch.empty(size, dtype=dtype)
        self.bias = torch.empty(size, dtype=dtype) if bias else None
        self.eps = eps

    def weights(self) -> NormWeights:
        return NormWeights(self.weight, self.bias, self.eps)

    def views(self, name: str) -> dict[str, torch.Tensor]:
        """Checkpoint tensor name to the memory it is loaded into."""
        views = {f"{name}.weight": self.weight}
        return views if self.bias is None else views | {f"{name}.bias": self.bias}
