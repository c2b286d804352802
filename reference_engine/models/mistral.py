"""Mistral: Llama whose tokens see a sliding window of the past. Source: arXiv:2310.06825."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from llmbench.reference_engine.models.config import ModelConfig, read_int
from llmbench.reference_engine.models.llama import read_sizes


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    window = None if raw.get("sliding_window") is None else read_int(raw, "sliding_window")
    return dataclasses.replace(read_sizes(raw), sliding_window=window)
