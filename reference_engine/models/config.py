"""The shape of a model, read from a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.reference_engine.errors import CheckpointError

ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding of the first `rotated_share` of each head's components.

    `factor` and the next three are read by the scaled types only.

    Source of llama3: the Llama 3.1 release's `rope_scaling`; of linear: arXiv:2306.15595.
    """

    rope_type: str = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    rotated_share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of a decoder-only transformer. `num_heads` query heads share `num_kv_heads` key/value heads.

    rope: None where positions are learned. qkv_bias, out_bias: of the attention's linears. qk_norm: each query and key
    head is normalised before it is rotated. sliding_window: tokens that a token sees, itself included; None for all.
    has_tanh_gelu: the perceptron's GELU is the approximation by tanh, where a family has both.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    norm_eps: float
    rope: RopeConfig | None
    tie_word_embeddings: bool
    eos_token_ids: frozenset[int]
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    has_tanh_gelu: bool = False


def read_int(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json: {key} must be a positive integer; {value!r} was found.")
    return value


def read_eos_token_ids(*sources: Mapping[str, Any]) -> frozenset[int]:
    """`eos_token_id` of the first source that has one: an int or a list of them; none at all is allowed."""
    for raw in sources:
        value = raw.get("eos_token_id")
        if value is not None:
            return frozenset([value] if isinstance(value, int) else value)
    return frozenset()


def read_rope(raw: Mapping[str, Any]) -> RopeConfig:
    """The rotary settings in either spelling.

    Up to transformers 4: `rope_theta` beside an optional `rope_scaling` with `rope_type` (or, older, `type`). From
    transformers 5: all of it in `rope_parameters`.
    """
    parameters: dict[str, Any] = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    if rope_type not in ROPE_TYPES:
        raise CheckpointError(
            f"config.json: rope type {rope_type!r} is not supported; the supported ones are {', '.join(ROPE_TYPES)}."
        )
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }
    missing = [key for key in needed[rope_type] if key not in parameters]
    if missing:
        raise CheckpointError(f"config.json: rope type {rope_type!r} lacks {', '.join(missing)}.")
    return RopeConfig(
        rope_type=rope_type,
        theta=float(parameters.get("rope_theta", raw.get("rope_theta", raw.get("rotary_emb_base", 10_000.0)))),
        rotated_share=float(
            parameters.get("partial_rotary_factor", raw.get("partial_rotary_factor", raw.get("rotary_pct", 1.0)))
        ),
        **{key: parameters[key] for key in needed[rope_type]},
    )
