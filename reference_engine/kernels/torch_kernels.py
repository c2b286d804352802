"""Every kernel in plain torch: what the others must equal."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from llmbench.reference_engine.kernels import attention_torch
from llmbench.reference_engine.kernels.contract import (
    ActivationName,
    AttentionKernel,
    HeadLayout,
    LinearParts,
    NormWeights,
)
from llmbench.reference_engine.layers.rotary import rotate
from llmbench.reference_engine.quantization.group_wise import (
    as_quantized,
    dequantize,
    round_activations,
    rounds_activations,
)
from llmbench.reference_engine.quantization.kv_formats import FP8
from llmbench.reference_engine.step_batch import StepBatch


class TorchKernels:
    name = "torch"
    cache_dtypes = frozenset({torch.float32, torch.bfloat16, torch.int8, FP8})

    def __init__(self, num_threads: int, device: torch.device) -> None:
        torch.set_num_threads(num_threads)

    def activation_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return dtype

    def linear(self, parts: LinearParts) -> TorchLinear:
        return TorchLinear(parts)

    def embedding(self, table: torch.Tensor, ids: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return embedding(table, ids, residual)

    def attention(self, heads: HeadLayout) -> AttentionKernel:
        return TorchAttention(heads)

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(dim=-1)


class TorchLinear:
    """Quantisation is simulated: the numbers are those of the integers, the speed and the memory are not."""

    def __init__(self, parts: LinearParts) -> None:
        weight, self.bias, self.norm, self.activation, quantization = parts
        quantized = as_quantized(weight, quantization)
        self.rounds_activations = quantized is not None and rounds_activations(quantized.scheme)
        if isinstance(weight, torch.Tensor):
            self.weight = weight if quantized is None else dequantize(quantized, weight.shape[1])
        else:
            self.weight = dequantize(weight, weight.codes.shape[1])
        if quantized is not None:
            self.bias = None if self.bias is None else self.bias.float()

    @property
    def weight_bytes(self) -> int:
        return self.weight.nbytes

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        y = x if self.norm is None else normalise(x, self.norm)
        if self.rounds_activations:
            y = round_activations(y.float())
        y = activate(F.linear(y.to(self.weight.dtype), self.weight, self.bias), self.activation).to(x.dtype)
        return y if residual is None else residual + y


class TorchAttention:
    def __init__(self, heads: HeadLayout) -> None:
        self.heads = heads

    def __call__(
        self, qkv: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, batch: StepBatch
    ) -> torch.Tensor:
        layout = self.heads
        H, G = layout.num_heads, layout.num_kv_heads
        q, k, v = torch.split(qkv.view(-1, H + 2 * G, layout.head_dim), [H, G, G], dim=1)
        q = q if layout.q_norm is None else normalise(q, layout.q_norm)
        k = k if layout.k_norm is None else normalise(k, layout.k_norm)
        if batch.rotary is not None:
            q, k = (rotate(x, *batch.rotation) for x in (q, k))
        attention_torch.write_kv(k, v, k_cache, v_cache, batch.slots)
        parts: list[torch.Tensor] = []
        n = batch.num_decodes
        if n == len(batch.spans):
            context_lens = batch.spans[:, 2]
            return attention_torch.decode(
                q, k_cache, v_cache, batch.block_tables, context_lens, layout.scale, layout.window
            ).flatten(1)
        if n:
            tables, context_lens = batch.block_tables[:n], batch.spans[:n, 2]
            parts.append(
                attention_torch.decode(q[:n], k_cache, v_cache, tables, context_lens, layout.scale, layout.window)
            )
        for (start, num_tokens, context_len), table in zip(batch.span_list[n:], batch.block_tables[n:], strict=True):
            chunk = q[start : start + num_tokens]
            parts.append(
                attention_torch.prefill(chunk, k_cache, v_cache, table, context_len, layout.scale, layout.window)
            )
        return torch.cat(parts).flatten(1)


def embedding(table: torch.Tensor, ids: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    rows = F.embedding(ids, table)
    return rows if residual is None else residual + rows


def normalise(x: torch.Tensor, norm: NormWeights) -> torch.Tensor:
    if norm.bias is None:
        return F.rms_norm(x, norm.weight.shape, norm.weight, norm.eps)
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)


def activate(y: torch.Tensor, activation: ActivationName | None) -> torch.Tensor:
    if activation == "swiglu":
        gate, up = y.chunk(2, dim=-1)
        return F.silu(gate) * up
    if activation is None:
        return y
    return F.gelu(y, approximate="tanh" if activation == "gelu_tanh" else "none")
