"""The two-layer perceptron of the older models; the gated one is in models/llama.py."""

from __future__ import annotations

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.contract import ActivationName, Kernels
from llmbench.reference_engine.layers.linear import Linear
from llmbench.reference_engine.layers.norm import Norm
from llmbench.reference_engine.models.config import ModelConfig


class MLP:
    """residual + down(activation(up(norm(x)))), with biases."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, norm: Norm, activation: ActivationName) -> None:
        hidden, inner = config.hidden_size, config.intermediate_size
        self.up = Linear(hidden, inner, bias=True, dtype=dtype, norm=norm, activation=activation)
        self.down = Linear(inner, hidden, bias=True, dtype=dtype)

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None:
        self.up.prepare(kernels, quantization)
        self.down.prepare(kernels, quantization)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x), residual)
