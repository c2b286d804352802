"""The Llama family: RMSNorm, rotary positions, grouped queries, SwiGLU. Sources: arXiv:2302.13971, 2407.21783."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.layers.attention import PagedAttention, StepBatch
from llmbench.reference_engine.layers.linear import FusedLinear, Linear
from llmbench.reference_engine.layers.norm import RMSNorm
from llmbench.reference_engine.models.config import ModelConfig, read_eos_token_ids, read_int, read_rope


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Raises CheckpointError for a setting that this implementation would not honour."""
    if raw.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"config.json: hidden_act must be silu; {raw['hidden_act']!r} was found.")
    hidden_size, num_heads = read_int(raw, "hidden_size"), read_int(raw, "num_attention_heads")
    num_kv_heads = num_heads if raw.get("num_key_value_heads") is None else read_int(raw, "num_key_value_heads")
    if num_heads % num_kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads ({num_heads}) is not a multiple of num_key_value_heads ({num_kv_heads})."
        )
    if raw.get("head_dim") is None and hidden_size % num_heads:
        raise CheckpointError(
            f"config.json: hidden_size ({hidden_size}) is not a multiple of num_attention_heads ({num_heads})."
        )
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=read_int(raw, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=read_int(raw, "intermediate_size"),
        num_layers=read_int(raw, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=hidden_size // num_heads if raw.get("head_dim") is None else read_int(raw, "head_dim"),
        max_position_embeddings=read_int(raw, "max_position_embeddings"),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope=read_rope(raw),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        eos_token_ids=read_eos_token_ids(raw),
    )


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)). Source: arXiv:2002.05202."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        sizes = [config.intermediate_size] * 2
        self.gate_up = FusedLinear(config.hidden_size, sizes, bias=config.mlp_bias, dtype=dtype)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: torch.Tensor = self.down(F.silu(gate) * up)
        return out


class LlamaLayer(nn.Module):
    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.attention = PagedAttention(config, index, dtype)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = SwiGLU(config, dtype)

    def forward(self, x: torch.Tensor, batch: StepBatch) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), batch)
        out: torch.Tensor = x + self.mlp(self.mlp_norm(x))
        return out

    def views(self, prefix: str) -> dict[str, torch.Tensor]:
        qkv_names = [f"{prefix}.self_attn.{part}_proj" for part in "qkv"]
        return {
            f"{prefix}.input_layernorm.weight": self.attention_norm.weight,
            **self.attention.qkv.part_views(qkv_names),
            **self.attention.out.views(f"{prefix}.self_attn.o_proj"),
            f"{prefix}.post_attention_layernorm.weight": self.mlp_norm.weight,
            **self.mlp.gate_up.part_views([f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj"]),
            **self.mlp.down.views(f"{prefix}.mlp.down_proj"),
        }


class Llama(nn.Module):
    """A decoder-only transformer; see models/base.py for the contract of the methods."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(
            torch.empty(config.vocab_size, config.hidden_size, dtype=dtype), requires_grad=False
        )
        self.layers = nn.ModuleList(LlamaLayer(config, index, dtype) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype)
        if config.tie_word_embeddings:
            self.head.weight = self.embedding

    def forward(self, batch: StepBatch) -> torch.Tensor:
        x = F.embedding(batch.token_ids, self.embedding)
        for layer in self.layers:
            x = layer(x, batch)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(hidden))
        return logits

    def checkpoint_views(self) -> dict[str, torch.Tensor]:
        views: dict[str, torch.Tensor] = {"model.embed_tokens.weight": self.embedding}
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, LlamaLayer)
            views |= layer.views(f"model.layers.{index}")
        views["model.norm.weight"] = self.norm.weight
        if not self.config.tie_word_embeddings:
            views |= self.head.views("lm_head")
        return views

    def is_ignorable(self, name: str) -> bool:
        # Written by old versions of transformers, and by some tools beside tied embeddings; both are recomputed here.
        tied_head = self.config.tie_word_embeddings and name == "lm_head.weight"
        return tied_head or name.endswith("rotary_emb.inv_freq")
