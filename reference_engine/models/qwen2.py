"""Qwen2: Llama with biases on queries, keys and values. Source: arXiv:2407.10671."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.models.llama import read_sizes


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    refuse_sliding_layers(raw)
    return dataclasses.replace(read_sizes(raw), qkv_bias=True)


def refuse_sliding_layers(raw: Mapping[str, Any]) -> None:
    """Raises CheckpointError where some layers have a sliding window: here all layers have one or none has."""
    if raw.get("use_sliding_window") or "sliding_attention" in (raw.get("layer_types") or ()):
        raise CheckpointError("config.json: use_sliding_window is not supported for Qwen models.")
