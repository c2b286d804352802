"""Qwen3: Llama whose query and key heads are normalised before the rotation. Source: arXiv:2505.09388."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from llmbench.reference_engine.models import qwen2
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.models.llama import read_sizes
from llmbench.reference_engine.models.raw_values import read_bool

DEFAULTS: Mapping[str, Any] = {**qwen2.DEFAULTS, "head_dim": 128}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    raw = {**DEFAULTS, **raw}
    qwen2.refuse_sliding_layers(raw)
    bias = read_bool(raw, "attention_bias")
    return dataclasses.replace(read_sizes(raw), qkv_bias=bias, out_bias=bias, qk_norm=True)
