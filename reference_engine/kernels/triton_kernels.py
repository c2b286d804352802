"""The kernels of triton_lang/ as a set; the rest is left to torch. What they reach on a GPU: docs/gpu.md."""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F

from llmbench.reference_engine.errors import KernelsUnavailableError
from llmbench.reference_engine.kernels.contract import AttentionKernel, HeadLayout, LinearParts, NormWeights
from llmbench.reference_engine.kernels.torch_kernels import activate, embedding, normalise
from llmbench.reference_engine.kernels.triton_lang import operators
from llmbench.reference_engine.kernels.triton_lang.gemv import MAX_ROWS as MAX_GEMV_ROWS
from llmbench.reference_engine.kernels.triton_lang.packed_weight import PackedWeight, pack
from llmbench.reference_engine.quantization.group_wise import as_quantized, rounds_activations
from llmbench.reference_engine.quantization.kv_formats import FP8
from llmbench.reference_engine.step_batch import StepBatch

# With more rows it is faster to turn weights into floats before the product than on its way.
MAX_CONVERTED_ROWS = 64

_OPS = getattr(torch.ops, operators.NAMESPACE)


class TritonKernels:
    """On a CUDA or HIP device; on a CPU in Triton's interpreter alone, which is there for tests.

    Unquantised products of more than a few rows are cuBLAS's or hipBLASLt's, by way of torch.
    """

    name = "triton"
    cache_dtypes = frozenset({torch.float32, torch.bfloat16, torch.int8, FP8})

    def __init__(self, num_threads: int, device: torch.device) -> None:
        if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            raise KernelsUnavailableError(
                "The Triton-language kernels need device = cuda. With TRITON_INTERPRET=1 in the environment they also "
                "run on a CPU, thousands of times slower, to be tested."
            )
        self._are_interpreted = device.type == "cpu"
        torch.set_num_threads(num_threads)

    def activation_dtype(self, dtype: torch.dtype) -> torch.dtype:
        if self._are_interpreted and dtype == torch.bfloat16:
            raise KernelsUnavailableError(
                "Triton's interpreter multiplies bfloat16 numbers as if they were integers; take dtype = float32 there."
            )
        return dtype

    def linear(self, parts: LinearParts) -> TritonLinear:
        return TritonLinear(parts)

    def embedding(self, table: torch.Tensor, ids: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return embedding(table, ids, residual)

    def attention(self, heads: HeadLayout) -> AttentionKernel:
        return TritonAttention(heads)

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(dim=-1)


class TritonLinear:
    def __init__(self, parts: LinearParts) -> None:
        weight, self.bias, self.norm, self.activation, quantization = parts
        quantized = as_quantized(weight, quantization)
        self.weight: torch.Tensor | PackedWeight
        if quantized is not None:
            self.weight = pack(quantized)
        else:
            assert isinstance(weight, torch.Tensor)
            self.weight = weight

    @property
    def weight_bytes(self) -> int:
        tensors = (self.weight,) if isinstance(self.weight, torch.Tensor) else (self.weight.codes, self.weight.scales)
        return sum(tensor.nbytes for tensor in tensors)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        norm, is_gated = self.norm, self.activation == "swiglu"
        if norm is not None and norm.bias is not None:
            x, norm = normalise(x, norm), None
        if is_gated or self.activation is None:
            return self._multiply(x, norm, residual, is_gated)
        y = activate(self._multiply(x, norm, None, is_gated), self.activation)
        return y if residual is None else residual + y

    def _multiply(
        self, x: torch.Tensor, norm: NormWeights | None, residual: torch.Tensor | None, is_gated: bool
    ) -> torch.Tensor:
        """residual + activation(norm(x) · Wᵀ + bias), where the activation is none or swiglu."""
        gain, eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
        around = (gain, eps, self.bias, residual, is_gated)
        y: torch.Tensor
        if isinstance(self.weight, torch.Tensor):
            if len(x) <= MAX_GEMV_ROWS:
                y = _OPS.gemv.default(x, self.weight, None, None, *around)
                return y
            weight = self.weight
        else:
            if len(x) <= MAX_GEMV_ROWS:
                y = _OPS.gemv.default(x, *self.weight, *around)
                return y
            if len(x) <= MAX_CONVERTED_ROWS or rounds_activations(self.weight.scheme):
                y = _OPS.quantized_linear.default(x, *self.weight, *around)
                return y
            weight = _OPS.unpack_weight.default(*self.weight, x.shape[1], x.dtype)
        if gain is not None:
            x = _OPS.rms_norm.default(x, gain, eps)
        if residual is not None and self.bias is None and not is_gated:
            return torch.addmm(residual, x, weight.T)
        y = F.linear(x, weight, self.bias)
        if is_gated:
            y = _OPS.swiglu.default(y)
        return y if residual is None else residual + y


class TritonAttention:
    def __init__(self, heads: HeadLayout) -> None:
        self.heads = heads
        assert (heads.q_norm is None) == (heads.k_norm is None)
        self._norms: tuple[torch.Tensor | None, torch.Tensor | None, float] = (None, None, 0.0)
        if heads.q_norm is not None and heads.k_norm is not None:
            self._norms = (heads.q_norm.weight, heads.k_norm.weight, heads.q_norm.eps)

    def __call__(
        self, qkv: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, batch: StepBatch
    ) -> torch.Tensor:
        layout, n = self.heads, batch.num_decodes
        rotation = (None, None) if batch.rotary is None else batch.rotation
        _OPS.rotary_kv.default(qkv, *rotation, batch.slots, k_cache, v_cache, layout.num_heads, *self._norms)
        q = qkv.view(qkv.shape[0], -1, layout.head_dim)[:, : layout.num_heads]
        tables, context_lens = batch.block_tables, batch.context_lens
        if n == len(batch.spans):
            out: torch.Tensor = _OPS.decode_attention.default(
                q, k_cache, v_cache, tables, context_lens, layout.scale, layout.window
            )
            return out.flatten(1)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if n:
            out[:n] = _OPS.decode_attention.default(
                q[:n], k_cache, v_cache, tables[:n], context_lens[:n], layout.scale, layout.window
            )
        _OPS.prefill_attention.default(
            q, k_cache, v_cache, tables, batch.spans, batch.prefill_tiles, out, layout.scale, layout.window
        )
        return out.flatten(1)
