"""Mistral: Llama whose tokens see a sliding window of the past. Source: arXiv:2310.06825."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from llmbench.reference_engine.models import llama
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.models.raw_values import read_int

DEFAULTS: Mapping[str, Any] = {**llama.DEFAULTS, "num_key_value_heads": 8, "sliding_window": 4096}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    raw = {**DEFAULTS, **raw}
    window = None if raw["sliding_window"] is None else read_int(raw, "sliding_window")
    return dataclasses.replace(llama.read_sizes(raw), sliding_window=window)
