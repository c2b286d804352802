"""Rotary position embedding: each pair of a head's components is turned by an angle proportional to the position."""

from __future__ import annotations

import math

import torch

from llmbench.reference_engine.models.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, rotary_dim: int) -> torch.Tensor:
    """Radians per position of each pair, [rotary_dim // 2] float32, after the model's context extension."""
    frequencies = 1.0 / rope.theta ** (torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim)
    if rope.rope_type == "linear":
        return frequencies / rope.factor
    if rope.rope_type == "llama3":
        return _llama3(frequencies, rope)
    return frequencies


def _llama3(frequencies: torch.Tensor, rope: RopeConfig) -> torch.Tensor:
    """Slow pairs are slowed by `factor`, fast ones left alone, those between interpolated by turns per old context."""
    turns = rope.original_max_position_embeddings * frequencies / (2 * math.pi)
    share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    share = share.clamp(0.0, 1.0)
    return frequencies * (share + (1.0 - share) / rope.factor)


class RotaryTable:
    """Cosines and sines of all positions, [max_len, rotary_dim] in the model's dtype, computed in float32.

    rotary_dim is the rotated share of head_dim. Component i is paired with i + rotary_dim // 2, as Hugging Face
    checkpoints have it. The sign of the rotation is in the sines' first half, so that turning is two products and a
    swap of halves. Source: arXiv:2104.09864.
    """

    def __init__(self, rope: RopeConfig, head_dim: int, max_len: int, dtype: torch.dtype) -> None:
        rotary_dim = int(head_dim * rope.rotated_share)
        angles = torch.arange(max_len, dtype=torch.float32).unsqueeze(1) * inverse_frequencies(rope, rotary_dim)
        self.cos = torch.cat((angles.cos(), angles.cos()), dim=-1).to(dtype)
        self.sin = torch.cat((-angles.sin(), angles.sin()), dim=-1).to(dtype)

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [T, 1, rotary_dim] of positions [T], looked up once per step for all layers."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [T, heads, head_dim], its first rotary_dim components turned by its tokens' angles."""
    rotary_dim = cos.shape[-1]
    turned = x[..., :rotary_dim]
    turned = turned * cos + turned.roll(rotary_dim // 2, dims=-1) * sin
    return turned if rotary_dim == x.shape[-1] else torch.cat((turned, x[..., rotary_dim:]), dim=-1)
