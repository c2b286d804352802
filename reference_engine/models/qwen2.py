"""Qwen2: Llama with biases on queries, keys and values. Source: arXiv:2407.10671."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.models import llama
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.models.raw_values import read_bool, read_list

DEFAULTS: Mapping[str, Any] = {
    **llama.DEFAULTS,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "eos_token_id": None,
}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    raw = {**DEFAULTS, **raw}
    refuse_sliding_layers(raw)
    return dataclasses.replace(llama.read_sizes(raw), qkv_bias=True)


def refuse_sliding_layers(raw: Mapping[str, Any]) -> None:
    """Raises CheckpointError where some layers have a sliding window: here all layers have one or none has."""
    if read_bool(raw, "use_sliding_window") or "sliding_attention" in read_list(raw, "layer_types"):
        raise CheckpointError("config.json: use_sliding_window is not supported for Qwen models.")
