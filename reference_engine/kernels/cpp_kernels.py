"""The C++ kernels in csrc/: norm, linear and activation in one pass; rotation, cache write and attention in another."""

from __future__ import annotations

import torch

from llmbench.reference_engine.errors import KernelsUnavailableError
from llmbench.reference_engine.kernels.build import load_library
from llmbench.reference_engine.kernels.contract import AttentionKernel, HeadLayout, LinearParts, NormWeights
from llmbench.reference_engine.kernels.packing import arrange_rows, pack
from llmbench.reference_engine.quantization.kv_formats import FP8
from llmbench.reference_engine.step_batch import StepBatch

ACTIVATIONS = {None: 0, "swiglu": 1, "gelu": 2, "gelu_tanh": 3}  # csrc/kernels.h
MAX_HEAD_DIM = 512


class CppKernels:
    """Activations are float32 whatever the weights are; keys and values are what the cache holds."""

    name = "cpp"
    cache_dtypes = frozenset({torch.float32, torch.bfloat16, torch.int8, FP8})

    def __init__(self, num_threads: int, device: torch.device) -> None:
        if device.type != "cpu":
            raise KernelsUnavailableError(f"The C++ kernels run on the CPU, and the device is {device.type}.")
        load_library()
        import llmbench.reference_engine.kernels.fake_ops  # noqa: F401 - registers them, now that the ops exist

        torch.ops.llmbench.set_num_threads(num_threads)
        # What is left to torch is small, and two sets of threads on the same cores wait for each other.
        torch.set_num_threads(1)

    def activation_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float32

    def linear(self, parts: LinearParts) -> CppLinear:
        return CppLinear(parts)

    def embedding(self, table: torch.Tensor, ids: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return torch.ops.llmbench.embedding.default(table, ids, residual)  # type: ignore[no-any-return]

    def attention(self, heads: HeadLayout) -> AttentionKernel:
        return CppAttention(heads)

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.ops.llmbench.argmax.default(logits)  # type: ignore[no-any-return]


class CppLinear:
    def __init__(self, parts: LinearParts) -> None:
        is_swiglu = parts.activation == "swiglu"
        packed, weight_format = pack(parts.weight, parts.quantization, pairs=is_swiglu)
        bias = None if parts.bias is None else arrange_rows(parts.bias.float(), is_swiglu).flatten()
        self.packed = packed
        self._op = torch.ops.llmbench.linear.default
        # All but x and the residual, in the operator's order: looked up once and not in every step.
        out_features = parts.out_features // 2 if is_swiglu else parts.out_features
        self._settings = (packed, weight_format, out_features, bias, ACTIVATIONS[parts.activation], *_norm(parts.norm))

    @property
    def weight_bytes(self) -> int:
        return self.packed.nbytes

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return self._op(x, *self._settings, residual)  # type: ignore[no-any-return]


class CppAttention:
    def __init__(self, heads: HeadLayout) -> None:
        if heads.head_dim % 16 or heads.head_dim > MAX_HEAD_DIM:
            raise KernelsUnavailableError(
                f"The C++ kernels want a head size that is a multiple of 16 up to {MAX_HEAD_DIM}, and the model's is "
                f"{heads.head_dim}; kernels = torch (--kernels torch) takes any."
            )
        q_norm, _, eps = _norm(heads.q_norm)
        k_norm, _, _ = _norm(heads.k_norm)
        self._op = torch.ops.llmbench.attention.default
        self._settings = (q_norm, k_norm, eps, heads.num_heads, heads.scale, heads.window or 0)

    def __call__(
        self, qkv: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, batch: StepBatch
    ) -> torch.Tensor:
        rotary = batch.rotary
        cos, sin = (None, None) if rotary is None else (rotary.cos, rotary.sin)
        return self._op(qkv, k_cache, v_cache, batch.spans, batch.block_tables, cos, sin, *self._settings)  # type: ignore[no-any-return]


def _norm(norm: NormWeights | None) -> tuple[torch.Tensor | None, torch.Tensor | None, float]:
    if norm is None:
        return None, None, 0.0
    return norm.weight.float(), None if norm.bias is None else norm.bias.float(), norm.eps
