"""Qwen3: Llama whose query and key heads are normalised before the rotation. Source: arXiv:2505.09388."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.models.llama import read_sizes
from llmbench.reference_engine.models.qwen2 import refuse_sliding_layers


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    refuse_sliding_layers(raw)
    bias = bool(raw.get("attention_bias", False))
    # 128 is what transformers takes where config.json does not say.
    sizes = read_sizes({"head_dim": 128, **raw})
    return dataclasses.replace(sizes, qkv_bias=bias, out_bias=bias, qk_norm=True)
