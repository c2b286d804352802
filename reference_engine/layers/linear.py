"""Linear layers, with what is computed in the same pass: the norm of their input, their activation, the residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.contract import ActivationName, Kernels, LinearKernel, LinearParts
from llmbench.reference_engine.layers.norm import Norm
from llmbench.reference_engine.quantization.group_wise import QuantizedWeight, dequantize, quantize


class Linear:
    """residual + activation(norm(x) · Wᵀ + bias), x [T, in_features].

    The weights are uninitialised until a checkpoint is loaded; `prepare` then hands them to a kernel. What a checkpoint
    stores as codes is in `stored`, by the first of its rows, and not in `weight`.
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
        self.stored: dict[int, QuantizedWeight] = {}
        self.norm = norm
        self.activation = activation
        self.num_weights = self.weight.numel()
        self.kernel: LinearKernel | None = None

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None:
        """Give the weights to the kernel, which may keep a copy in its own order; these are dropped.

        Stored codes keep their format unless `quantization` names another one that they are valid in; weights in floats
        are rounded only if it is given.
        """
        norm = None if self.norm is None else self.norm.weights()
        weight = self._in_one_format(quantization)
        scheme = weight.scheme if isinstance(weight, QuantizedWeight) else quantization
        self.kernel = kernels.linear(LinearParts(weight, self.bias, norm, self.activation, scheme))
        del self.weight, self.stored

    def _in_one_format(self, quantization: QuantizationName | None) -> torch.Tensor | QuantizedWeight:
        """A kernel computes with one format: where parts are stored in floats and others not, all are floats."""
        if not self.stored:
            return self.weight
        num_rows, in_features = self.weight.shape
        parts = [self.stored[start] for start in sorted(self.stored)]
        if sum(len(part.codes) for part in parts) == num_rows:
            codes, scales = (torch.cat(tensors) for tensors in zip(*((p.codes, p.scales) for p in parts), strict=True))
            return QuantizedWeight(codes, scales, quantization or parts[0].scheme)
        if quantization is None:
            for start, part in self.stored.items():
                self.weight[start : start + len(part.codes)] = dequantize(part, in_features)
            return self.weight
        rounded = quantize(self.weight, quantization)
        for start, part in self.stored.items():
            rows = slice(start, start + len(part.codes))
            rounded.codes[rows], rounded.scales[rows] = part.codes, part.scales
        return rounded

    def reorder(self, order: torch.Tensor) -> None:
        """Row order[i] becomes row i, before `prepare`; for a linear that is one in the checkpoint too."""
        assert all(len(codes.codes) == len(order) for codes in self.stored.values())
        self.weight = self.weight[order]
        self.bias = None if self.bias is None else self.bias[order]
        self.stored = {start: codes.with_rows(order) for start, codes in self.stored.items()}

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        assert self.kernel is not None
        return self.kernel(x, residual)

    @property
    def weight_bytes(self) -> int:
        """What the kernel reads of the weights, scales included, whatever the number of rows."""
        assert self.kernel is not None
        return self.kernel.weight_bytes

    def whole(self, name: str) -> dict[str, LinearPart]:
        """This linear by its name in the checkpoint."""
        return {name: LinearPart(self, slice(0, len(self.weight)))}


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

    def parts(self, *names: str) -> dict[str, LinearPart]:
        """The linears that the checkpoint has in place of this one, by name, in the order in which they are stacked."""
        found: dict[str, LinearPart] = {}
        start = 0
        for name, num_rows in zip(names, self.out_features, strict=True):
            found[name] = LinearPart(self, slice(start, start + num_rows))
            start += num_rows
        return found


class LinearPart(NamedTuple):
    """One linear as the checkpoint has it: these rows of `linear`, often all of them. Until `linear` is prepared."""

    linear: Linear
    rows: slice

    @property
    def weight(self) -> torch.Tensor:
        """The memory [out_features, in_features] that its weights are loaded into."""
        return self.linear.weight[self.rows]

    def store(self, codes: QuantizedWeight) -> None:
        """Its weights are these codes."""
        device = self.linear.weight.device
        moved = codes._replace(codes=codes.codes.to(device), scales=codes.scales.to(device))
        self.linear.stored[self.rows.start] = moved


def weight_views(parts: Mapping[str, LinearPart]) -> dict[str, torch.Tensor]:
    """Checkpoint tensor name to the memory it is loaded into, of linears by their names."""
    views: dict[str, torch.Tensor] = {}
    for name, part in parts.items():
        views[f"{name}.weight"] = part.weight
        if part.linear.bias is not None:
            views[f"{name}.bias"] = part.linear.bias[part.rows]
    return views
