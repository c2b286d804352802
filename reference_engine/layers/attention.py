"""Self-attention over the paged cache."""

from __future__ import annotations

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.contract import AttentionKernel, HeadLayout, Kernels
from llmbench.reference_engine.layers.linear import FusedLinear, Linear
from llmbench.reference_engine.layers.norm import Norm
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.step_batch import StepBatch


class PagedAttention:
    """Multi-head attention with grouped key/value heads; writes the step's keys and values into layer `index`."""

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype, norm: Norm) -> None:
        self.index = index
        self.config = config
        self.q_norm = Norm(config.head_dim, config.norm_eps, dtype) if config.qk_norm else None
        self.k_norm = Norm(config.head_dim, config.norm_eps, dtype) if config.qk_norm else None
        widths = [count * config.head_dim for count in (config.num_heads, config.num_kv_heads, config.num_kv_heads)]
        self.qkv = FusedLinear(config.hidden_size, widths, bias=config.qkv_bias, dtype=dtype, norm=norm)
        self.out = Linear(widths[0], config.hidden_size, bias=config.out_bias, dtype=dtype)
        self.kernel: AttentionKernel | None = None

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None:
        self.qkv.prepare(kernels, quantization)
        self.out.prepare(kernels, quantization)
        config = self.config
        layout = HeadLayout(
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            scale=config.head_dim**-0.5,
            window=config.sliding_window,
            q_norm=None if self.q_norm is None else self.q_norm.weights(),
            k_norm=None if self.k_norm is None else self.k_norm.weights(),
        )
        self.kernel = kernels.attention(layout)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor, batch: StepBatch) -> torch.Tensor:
        """residual + attention(norm(x)), x [T, hidden_size]."""
        assert self.kernel is not None
        k_cache, v_cache = batch.kv_cache.layers[self.index]
        mixed = self.kernel(self.qkv(x), k_cache, v_cache, batch)
        return self.out(mixed, residual)
