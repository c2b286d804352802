"""A Llama to be trained: models/llama.py with gradients, contiguous attention and the checkpoint's own names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from llmbench.reference_engine.models.checkpoint_layout import LlamaShape

RMS_NORM_EPS = 1e-5
ROPE_THETA = 10_000.0


class Attention(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        kv_size = shape.num_kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        projected: torch.Tensor = self.o_proj(out.transpose(1, 2).flatten(-2))
        return projected


class MLP(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, RMS_NORM_EPS)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, RMS_NORM_EPS)
        self.mlp = MLP(shape)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class TrainableLlama(nn.Module):
    """Token ids [B, T] to logits [B, T, vocab_size]. Input and output embeddings are one matrix."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, RMS_NORM_EPS)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # What writes to the residual stream starts smaller, so that its variance does not grow with depth.
                is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * shape.num_layers) ** 0.5 if is_residual else 0.02)

    def forward(self, token_ids: torch.Tensor, head: torch.Tensor | None = None) -> torch.Tensor:
        """`head` takes the output embedding's place."""
        cos, sin = rotary_table(token_ids.shape[1], self.shape.head_dim)
        x = self.embed_tokens(token_ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed_tokens.weight if head is None else head)

    def checkpoint(self) -> dict[str, torch.Tensor]:
        """The weights by their names in a Hugging Face checkpoint, in bfloat16."""
        return {f"model.{name}": weight.detach().to(torch.bfloat16) for name, weight in self.named_parameters()}


def rotary_table(num_tokens: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [num_tokens, head_dim], each half of the dimensions repeated, as Hugging Face orders them."""
    frequencies = ROPE_THETA ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(num_tokens, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-high, low), dim=-1) * sin.to(x.dtype)
