"""Which proposer an engine's settings ask for, and which models."""

from __future__ import annotations

from pathlib import Path

import torch

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.kernels.contract import Kernels
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.models.loader import read_model_config
from llmbench.reference_engine.speculative.draft_model import DraftModelProposer
from llmbench.reference_engine.speculative.ngram import NgramProposer
from llmbench.reference_engine.speculative.proposer import Proposer


def make_proposer(config: EngineConfig, target: ModelConfig, kernels: Kernels, dtype: torch.dtype) -> Proposer | None:
    """None without speculation; a draft model is loaded. Raises ConfigError or CheckpointError."""
    if config.speculative is None:
        return None
    if config.speculative == "ngram":
        return NgramProposer()
    assert not isinstance(config.speculative, str)
    return DraftModelProposer(config.speculative, config, target, kernels, dtype)


def model_configs(config: EngineConfig) -> list[ModelConfig]:
    """Of the model and of its draft model, if it has one: both run on the same kernels. Raises CheckpointError."""
    folders = [config.model_path, *([config.speculative] if isinstance(config.speculative, Path) else [])]
    return [read_model_config(folder) for folder in folders]
