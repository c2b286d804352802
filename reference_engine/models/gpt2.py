"""GPT-2 and DistilGPT2: LayerNorm, learned positions, GELU. Source: "Language Models are Unsupervised Multitask
Learners", Radford et al. 2019."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.contract import Kernels
from llmbench.reference_engine.layers.attention import PagedAttention
from llmbench.reference_engine.layers.linear import LinearPart, weight_views
from llmbench.reference_engine.layers.mlp import MLP
from llmbench.reference_engine.layers.norm import Norm
from llmbench.reference_engine.models.config import ModelConfig, read_eos_token_ids, read_head_dim
from llmbench.reference_engine.models.decoder import Decoder, Names
from llmbench.reference_engine.models.raw_values import read_bool, read_float, read_int, refuse
from llmbench.reference_engine.step_batch import StepBatch

# What transformers takes for a key that config.json leaves out.
DEFAULTS: Mapping[str, Any] = {
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "eos_token_id": 50256,
}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Raises CheckpointError for a setting that this implementation would not honour."""
    raw = {**DEFAULTS, **raw}
    if raw["activation_function"] not in ("gelu_new", "gelu_pytorch_tanh"):
        raise refuse(raw, "activation_function", "gelu_new")
    for key in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx"):
        if raw[key] is not DEFAULTS[key]:
            raise refuse(raw, key, str(DEFAULTS[key]).lower())
    hidden_size, num_heads, vocab_size = (read_int(raw, key) for key in ("n_embd", "n_head", "vocab_size"))
    return ModelConfig(
        architecture="GPT2LMHeadModel",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size if raw["n_inner"] is None else read_int(raw, "n_inner"),
        num_layers=read_int(raw, "n_layer"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=read_head_dim(raw, "n_embd", "n_head"),
        max_position_embeddings=read_int(raw, "n_positions"),
        norm_eps=read_float(raw, "layer_norm_epsilon"),
        rope=None,
        tie_word_embeddings=read_bool(raw, "tie_word_embeddings"),
        eos_token_ids=read_eos_token_ids(raw, vocab_size) or frozenset(),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


class GPT2Layer:
    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        self.attention_norm = Norm(config.hidden_size, config.norm_eps, dtype, bias=True)
        self.attention = PagedAttention(config, index, dtype, self.attention_norm)
        self.mlp_norm = Norm(config.hidden_size, config.norm_eps, dtype, bias=True)
        self.mlp = MLP(config, dtype, self.mlp_norm, "gelu_tanh")

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None:
        self.attention.prepare(kernels, quantization)
        self.mlp.prepare(kernels, quantization)

    def __call__(self, x: torch.Tensor, batch: StepBatch) -> torch.Tensor:
        x = self.attention(x, x, batch)
        return self.mlp(x, x)

    def linears(self, prefix: str) -> dict[str, LinearPart]:
        return {
            **self.attention.qkv.whole(f"{prefix}.attn.c_attn"),
            **self.attention.out.whole(f"{prefix}.attn.c_proj"),
            **self.mlp.up.whole(f"{prefix}.mlp.c_fc"),
            **self.mlp.down.whole(f"{prefix}.mlp.c_proj"),
        }

    def views(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            **self.attention_norm.views(f"{prefix}.ln_1"),
            **self.mlp_norm.views(f"{prefix}.ln_2"),
            **_transposed(weight_views(self.linears(prefix))),
        }


class GPT2(Decoder):
    # The causal mask was once saved as a weight.
    names = Names("transformer.", "wte", "h", "ln_f", "lm_head", ignorable=(".attn.bias", ".attn.masked_bias"))

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        layers = [GPT2Layer(config, index, dtype) for index in range(config.num_layers)]
        super().__init__(config, dtype, layers, Norm(config.hidden_size, config.norm_eps, dtype, bias=True))
        self.positions = torch.empty(config.max_position_embeddings, config.hidden_size, dtype=dtype)

    def embed(self, batch: StepBatch) -> torch.Tensor:
        assert self.kernels is not None
        return self.kernels.embedding(self.positions, batch.positions, residual=super().embed(batch))

    def checkpoint_views(self) -> dict[str, torch.Tensor]:
        return super().checkpoint_views() | {"transformer.wpe.weight": self.positions}


def _transposed(views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GPT-2's checkpoints hold their matrices as [in_features, out_features]; codes are [out, in] there too."""
    return {name: view.t() if name.endswith(".weight") else view for name, view in views.items()}
