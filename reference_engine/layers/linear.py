"""Linear layers, with what is computed in the same pass: the norm of their input, their activation, the residual."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.contract import ActivationName, Kernels, LinearKernel, LinearParts
from llmbench.reference_engine.layers.norm import Norm
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE, QuantizedWeight

# What a linear's parts are called beside its weight: in checkpoint_views, and in no file.
CODES, SCALES = "weight_codes", "weight_scale"


class Linear:
    """residual + activation(norm(x) · Wᵀ + bias), x [T, in_features].

    The weights are uninitialised until a checkpoint is loaded; `prepare` then hands them to a kernel.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        dtype: torch.dtype,
        norm: Norm | None = None,
        activation: ActivationName | None = None,
    ) -> None:
        self.weight = torch.empty(out_features, in_features, dtype=dtype)
        self.bias = torch.empty(out_features, dtype=dtype) if bias else None
        # Of a checkpoint that is quantised: then the weights are codes. Zeros: it is not.
        self.scales = torch.zeros(out_features, -(-in_features // GROUP_SIZE), dtype=torch.bfloat16)
        self.norm = norm
        self.activation = activation
        self.num_weights = self.weight.numel()
        self.kernel: LinearKernel | None = None

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None:
        """Give the weights to the kernel, which may keep a copy in its own order; this one is dropped."""
        norm = None if self.norm is None else self.norm.weights()
        weight: torch.Tensor | QuantizedWeight = self.weight
        if bool(self.scales.any()):
            assert quantization is not None
            weight = QuantizedWeight(self.weight.to(torch.int8), self.scales, quantization)
        self.kernel = kernels.linear(LinearParts(weight, self.bias, norm, self.activation, quantization))
        del self.weight, self.scales

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        assert self.kernel is not None
        return self.kernel(x, residual)

    @property
    def weight_bytes(self) -> int:
        """What the kernel reads of the weights, scales included, whatever the number of rows."""
        assert self.kernel is not None
        return self.kernel.weight_bytes

    def views(self, name: str) -> dict[str, torch.Tensor]:
        """Checkpoint tensor name to the memory it is loaded into."""
        return self._row_views(name, 0, self.weight.shape[0])

    def _row_views(self, name: str, start: int, num_rows: int) -> dict[str, torch.Tensor]:
        rows = slice(start, start + num_rows)
        # Codes are stored as [out, in] even where unquantised weights are [in, out].
        views = {f"{name}.weight": self.weight[rows], f"{name}.{CODES}": self.weight[rows]}
        views[f"{name}.{SCALES}"] = self.scales[rows]
        if self.bias is not None:
            views[f"{name}.bias"] = self.bias[rows]
        return views


class FusedLinear(Linear):
    """Linears of one input, stacked by rows: one matrix product instead of several smaller ones."""

    def __init__(
        self,
        in_features: int,
        out_features: Sequence[int],
        *,
        bias: bool,
        dtype: torch.dtype,
        norm: Norm | None = None,
        activation: ActivationName | None = None,
    ) -> None:
        super().__init__(in_features, sum(out_features), bias=bias, dtype=dtype, norm=norm, activation=activation)
        self.out_features = tuple(out_features)

    def part_views(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """As `views`, for the checkpoint's separate linears in the order in which they are stacked."""
        views: dict[str, torch.Tensor] = {}
        start = 0
        for name, num_rows in zip(names, self.out_features, strict=True):
            views |= self._row_views(name, start, num_rows)
            start += num_rows
        return views
