"""The shape of a model, read from a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.models.raw_values import (
    is_integer,
    read_float,
    read_int,
    read_object,
    refuse,
)

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
    has_tanh_gelu: the perceptron's GELU is the approximation by tanh, where a family has both. eos_token_ids: those
    within the vocabulary; no other can be generated.
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


def read_head_dim(raw: Mapping[str, Any], width_key: str, heads_key: str) -> int:
    """The width that each head gets. Raises CheckpointError where the heads do not share it evenly."""
    return check_multiple(raw, width_key, heads_key) // read_int(raw, heads_key)


def check_multiple(raw: Mapping[str, Any], key: str, divisor_key: str) -> int:
    """The value of `key`. Raises CheckpointError unless it is a multiple of that of `divisor_key`."""
    value, divisor = read_int(raw, key), read_int(raw, divisor_key)
    if value % divisor:
        raise CheckpointError(f"config.json: {key} ({value}) is not a multiple of {divisor_key} ({divisor}).")
    return value


def read_eos_token_ids(raw: Mapping[str, Any], vocab_size: int, file: str = "config.json") -> frozenset[int] | None:
    """`eos_token_id`, an integer or a list of them, as far as it is within the vocabulary; None where there is none.

    Ids outside of it are left out: the model has no logit for them, so they can be neither generated nor forbidden.
    """
    value = raw.get("eos_token_id")
    if value is None:
        return None
    token_ids = value if isinstance(value, list) else [value]
    if not all(map(is_integer, token_ids)):
        raise refuse(raw, "eos_token_id", "a token's id or a list of ids", file)
    return frozenset(token_id for token_id in token_ids if 0 <= token_id < vocab_size)


def read_rope(
    raw: Mapping[str, Any], head_dim: int, theta_key: str = "rope_theta", share_key: str = "partial_rotary_factor"
) -> RopeConfig:
    """The rotary settings in either spelling; where both are given, the older one is taken, as transformers does.

    Up to transformers 4: `rope_theta` beside an optional `rope_scaling` with `rope_type` (or, older, `type`). From
    transformers 5: all of it in `rope_parameters`. theta_key and share_key are a family's names beside them.
    """
    parameters = read_object(raw, "rope_scaling") or read_object(raw, "rope_parameters")
    nested = [key for key, value in parameters.items() if isinstance(value, Mapping)]
    if nested:
        raise CheckpointError(
            f"config.json: rope_parameters has settings of its own for {', '.join(nested)}: {', '.join(ROPE_TYPES)} "
            "are supported, one for all layers."
        )
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
    scaling = {key: _read_number(parameters, key) for key in needed[rope_type]}
    if rope_type == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise CheckpointError(
            f"config.json: low_freq_factor ({scaling['low_freq_factor']}) must be below high_freq_factor "
            f"({scaling['high_freq_factor']})."
        )
    share = read_float(*_place(parameters, "partial_rotary_factor", raw, share_key), most=1)
    num_rotated = int(head_dim * share)
    if num_rotated == 0 or (num_rotated == head_dim and head_dim % 2):
        raise CheckpointError(
            f"config.json: positions rotate pairs of a head's components, and {share} of a head size of {head_dim} are "
            f"{num_rotated}; at least one is needed, and an even number where it is the whole head."
        )
    return RopeConfig(
        rope_type=rope_type,
        theta=read_float(*_place(parameters, "rope_theta", raw, theta_key)),
        rotated_share=share,
        **scaling,
    )


def _place(
    parameters: Mapping[str, Any], key: str, raw: Mapping[str, Any], outer_key: str
) -> tuple[Mapping[str, Any], str]:
    """Where a rotary setting stands: among the others, or beside them."""
    return (parameters, key) if key in parameters else (raw, outer_key)


def _read_number(parameters: Mapping[str, Any], key: str) -> Any:
    return read_int(parameters, key) if key == "original_max_position_embeddings" else read_float(parameters, key)
