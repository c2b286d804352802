"""Llama: RMSNorm, rotary positions, grouped queries, SwiGLU. Sources: arXiv:2302.13971, 2407.21783.

Mistral and Qwen are this model with other settings: their files read the config.json into a ModelConfig.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.kernels.contract import Kernels
from llmbench.reference_engine.layers.attention import PagedAttention
from llmbench.reference_engine.layers.linear import FusedLinear, Linear, LinearPart, weight_views
from llmbench.reference_engine.layers.norm import Norm
from llmbench.reference_engine.models.config import (
    ModelConfig,
    check_multiple,
    read_eos_token_ids,
    read_head_dim,
    read_rope,
)
from llmbench.reference_engine.models.decoder import Decoder, Names
from llmbench.reference_engine.models.raw_values import read_bool, read_float, read_int, refuse
from llmbench.reference_engine.step_batch import StepBatch

# What transformers takes for a key that config.json leaves out, which is not what it takes for null.
DEFAULTS: Mapping[str, Any] = {
    "hidden_act": "silu",
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 1.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Raises CheckpointError for a setting that this implementation would not honour."""
    raw = {**DEFAULTS, **raw}
    bias = read_bool(raw, "attention_bias")
    return dataclasses.replace(read_sizes(raw), qkv_bias=bias, out_bias=bias, mlp_bias=read_bool(raw, "mlp_bias"))


def read_sizes(raw: Mapping[str, Any]) -> ModelConfig:
    """What the config.json of every model of this kind says in the same words, its family's defaults included."""
    if raw["hidden_act"] != "silu":
        raise refuse(raw, "hidden_act", "silu")
    num_heads = num_kv_heads = read_int(raw, "num_attention_heads")
    if raw["num_key_value_heads"] is not None:
        num_kv_heads = read_int(raw, "num_key_value_heads")
        check_multiple(raw, "num_attention_heads", "num_key_value_heads")
    if raw["head_dim"] is None:
        head_dim = read_head_dim(raw, "hidden_size", "num_attention_heads")
    else:
        head_dim = read_int(raw, "head_dim")
    rope = read_rope(raw, head_dim)
    vocab_size = read_int(raw, "vocab_size")
    if rope.rotated_share != 1.0:
        raise CheckpointError("config.json: partial_rotary_factor is only supported at 1.0.")
    return ModelConfig(
        architecture=raw["architectures"][0],
        vocab_size=vocab_size,
        hidden_size=read_int(raw, "hidden_size"),
        intermediate_size=read_int(raw, "intermediate_size"),
        num_layers=read_int(raw, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=read_int(raw, "max_position_embeddings"),
        norm_eps=read_float(raw, "rms_norm_eps"),
        rope=rope,
        tie_word_embeddings=read_bool(raw, "tie_word_embeddings"),
        eos_token_ids=read_eos_token_ids(raw, vocab_size) or frozenset(),
    )


class SwiGLU:
    """x + down(silu(gate(norm(x))) * up(norm(x))). Source: arXiv:2002.05202."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, norm: Norm) -> None:
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up = FusedLinear(hidden, [inner] * 2, bias=bias, dtype=dtype, norm=norm, activation="swiglu")
        self.down = Linear(inner, hidden, bias=bias, dtype=dtype)

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None:
        self.gate_up.prepare(kernels, quantization)
        self.down.prepare(kernels, quantization)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.gate_up(x), residual=x)


class LlamaLayer:
    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        self.attention_norm = Norm(config.hidden_size, config.norm_eps, dtype)
        self.attention = PagedAttention(config, index, dtype, self.attention_norm)
        self.mlp_norm = Norm(config.hidden_size, config.norm_eps, dtype)
        self.mlp = SwiGLU(config, dtype, self.mlp_norm)

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None:
        self.attention.prepare(kernels, quantization)
        self.mlp.prepare(kernels, quantization)

    def __call__(self, x: torch.Tensor, batch: StepBatch) -> torch.Tensor:
        return self.mlp(self.attention(x, x, batch))

    def linears(self, prefix: str) -> dict[str, LinearPart]:
        return {
            **self.attention.qkv.parts(*[f"{prefix}.self_attn.{part}_proj" for part in "qkv"]),
            **self.attention.out.whole(f"{prefix}.self_attn.o_proj"),
            **self.mlp.gate_up.parts(f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj"),
            **self.mlp.down.whole(f"{prefix}.mlp.down_proj"),
        }

    def views(self, prefix: str) -> dict[str, torch.Tensor]:
        head_norms = {"q_norm": self.attention.q_norm, "k_norm": self.attention.k_norm}
        views: dict[str, torch.Tensor] = {}
        for name, norm in head_norms.items():
            views |= {} if norm is None else norm.views(f"{prefix}.self_attn.{name}")
        return views | {
            **self.attention_norm.views(f"{prefix}.input_layernorm"),
            **self.mlp_norm.views(f"{prefix}.post_attention_layernorm"),
            **weight_views(self.linears(prefix)),
        }


class Llama(Decoder):
    # The rotation's frequencies were once saved as weights.
    names = Names("model.", "embed_tokens", "layers", "norm", "lm_head", ignorable=("rotary_emb.inv_freq",))

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        layers = [LlamaLayer(config, index, dtype) for index in range(config.num_layers)]
        super().__init__(config, dtype, layers, Norm(config.hidden_size, config.norm_eps, dtype))
