"""GPT-NeoX and Pythia: attention and perceptron side by side, partial rotation. Source: arXiv:2204.06745."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.contract import ActivationName, Kernels
from llmbench.reference_engine.layers.attention import PagedAttention
from llmbench.reference_engine.layers.linear import LinearPart, weight_views
from llmbench.reference_engine.layers.mlp import MLP
from llmbench.reference_engine.layers.norm import Norm
from llmbench.reference_engine.models.config import ModelConfig, read_eos_token_ids, read_head_dim, read_rope
from llmbench.reference_engine.models.decoder import Decoder, Names
from llmbench.reference_engine.models.raw_values import read_bool, read_float, read_int, refuse
from llmbench.reference_engine.step_batch import StepBatch

# GPT-NeoX 20B has gelu_fast, Pythia gelu.
_ACTIVATIONS: dict[str, ActivationName] = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

# What transformers takes for a key that config.json leaves out.
DEFAULTS: Mapping[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "rotary_emb_base": 10_000.0,
    "rotary_pct": 0.25,
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Raises CheckpointError for a setting that this implementation would not honour."""
    raw = {**DEFAULTS, **raw}
    activation = raw["hidden_act"]
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise refuse(raw, "hidden_act", f"one of {', '.join(_ACTIVATIONS)}")
    for key in ("use_parallel_residual", "attention_bias"):
        if raw[key] is not True:
            raise refuse(raw, key, "true")
    num_heads, vocab_size = read_int(raw, "num_attention_heads"), read_int(raw, "vocab_size")
    head_dim = read_head_dim(raw, "hidden_size", "num_attention_heads")
    return ModelConfig(
        architecture="GPTNeoXForCausalLM",
        vocab_size=vocab_size,
        hidden_size=read_int(raw, "hidden_size"),
        intermediate_size=read_int(raw, "intermediate_size"),
        num_layers=read_int(raw, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        max_position_embeddings=read_int(raw, "max_position_embeddings"),
        norm_eps=read_float(raw, "layer_norm_eps"),
        rope=read_rope(raw, head_dim, "rotary_emb_base", "rotary_pct"),
        tie_word_embeddings=read_bool(raw, "tie_word_embeddings"),
        eos_token_ids=read_eos_token_ids(raw, vocab_size) or frozenset(),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        has_tanh_gelu=_ACTIVATIONS[activation] == "gelu_tanh",
    )


class GPTNeoXLayer:
    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        self.attention_norm = Norm(config.hidden_size, config.norm_eps, dtype, bias=True)
        self.attention = PagedAttention(config, index, dtype, self.attention_norm)
        self.mlp_norm = Norm(config.hidden_size, config.norm_eps, dtype, bias=True)
        self.mlp = MLP(config, dtype, self.mlp_norm, "gelu_tanh" if config.has_tanh_gelu else "gelu")

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None:
        # The checkpoint has query, key and value of a head together; the kernels want all queries first.
        config, qkv = self.attention.config, self.attention.qkv
        rows = torch.arange(3 * config.num_heads * config.head_dim, device=qkv.weight.device)
        qkv.reorder(rows.view(config.num_heads, 3, config.head_dim).transpose(0, 1).flatten())
        self.attention.prepare(kernels, quantization)
        self.mlp.prepare(kernels, quantization)

    def __call__(self, x: torch.Tensor, batch: StepBatch) -> torch.Tensor:
        """x + attention(norm(x)) + mlp(norm'(x))."""
        return self.mlp(x, residual=self.attention(x, x, batch))

    def linears(self, prefix: str) -> dict[str, LinearPart]:
        return {
            **self.attention.qkv.whole(f"{prefix}.attention.query_key_value"),
            **self.attention.out.whole(f"{prefix}.attention.dense"),
            **self.mlp.up.whole(f"{prefix}.mlp.dense_h_to_4h"),
            **self.mlp.down.whole(f"{prefix}.mlp.dense_4h_to_h"),
        }

    def views(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            **self.attention_norm.views(f"{prefix}.input_layernorm"),
            **self.mlp_norm.views(f"{prefix}.post_attention_layernorm"),
            **weight_views(self.linears(prefix)),
        }


class GPTNeoX(Decoder):
    # The causal mask and the rotation's frequencies were once saved as weights.
    names = Names(
        "gpt_neox.",
        "embed_in",
        "layers",
        "final_layer_norm",
        "embed_out",
        ignorable=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
    )

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        layers = [GPTNeoXLayer(config, index, dtype) for index in range(config.num_layers)]
        super().__init__(config, dtype, layers, Norm(config.hidden_size, config.norm_eps, dtype, bias=True))
