"""What a set of kernels computes. The torch kernels are the oracle that every other set is tested against."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.quantization.group_wise import QuantizedWeight
from llmbench.reference_engine.step_batch import StepBatch

ActivationName = Literal["swiglu", "gelu", "gelu_tanh"]


class NormWeights(NamedTuple):
    """Normalisation over the last dimension: by the root mean square without a bias, a layer norm with one."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float


class HeadLayout(NamedTuple):
    """H = num_heads query heads share G = num_kv_heads key/value heads, H % G == 0, of head_dim components each.

    scale: factor of the scores. window: a token sees the last `window` tokens, itself included; None for all. q_norm
    and k_norm [head_dim]: root-mean-square norms of each head before the rotation.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    q_norm: NormWeights | None = None
    k_norm: NormWeights | None = None


class LinearParts(NamedTuple):
    """What a linear kernel is made of: activation(norm(x) · weightᵀ + bias).

    weight [out_features, in_features], quantised already or to be quantised as `quantization` says; for swiglu the
    first half of its rows are the gates, the second the ups.
    """

    weight: torch.Tensor | QuantizedWeight
    bias: torch.Tensor | None = None
    norm: NormWeights | None = None
    activation: ActivationName | None = None
    quantization: QuantizationName | None = None

    @property
    def out_features(self) -> int:
        """Rows of the weight: for swiglu twice as many as the kernel's outputs."""
        return (self.weight.codes if isinstance(self.weight, QuantizedWeight) else self.weight).shape[0]


class LinearKernel(Protocol):
    @property
    def weight_bytes(self) -> int:
        """Of the weights as they are stored, scales included: one call reads them all."""
        ...

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """residual + activation(norm(x) · Wᵀ + bias) for x [T, in_features]."""
        ...


class AttentionKernel(Protocol):
    def __call__(
        self, qkv: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, batch: StepBatch
    ) -> torch.Tensor:
        """Causal attention of the step's tokens over their sequences; returns [T, H * head_dim].

        qkv [T, (H + 2 G) * head_dim]: query, key and value heads one after another. q and k are normalised and rotated
        first. Modifies the caches [num_blocks, block_size, G, stored width of head_dim], contiguous, float32, bfloat16
        or a format of quantization/kv_formats.py: the step's keys and values are written before they are read. The
        order of the numbers within a block is the kernel's own.
        """
        ...


class Kernels(Protocol):
    name: str
    # What the KV cache may hold.
    cache_dtypes: frozenset[torch.dtype]

    def activation_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of what lies between the kernels when weights and cache are `dtype`."""
        ...

    def linear(self, parts: LinearParts) -> LinearKernel:
        """Weights in int8 and int4 are multiplied with inputs that are rounded to 8 bits per row and group; those in
        the other formats with the inputs as they are.
        """
        ...

    def embedding(self, table: torch.Tensor, ids: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """residual + table[ids], [n, columns] in the activations' dtype, for ids [n] int64."""
        ...

    def attention(self, heads: HeadLayout) -> AttentionKernel:
        """Raises KernelsUnavailableError for a layout that these kernels do not have."""
        ...

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        """Index of each row's largest value, [n] int64; the lowest where there are several."""
        ...
