"""Choosing a device: what is not there is refused in words, and nothing of a step stays on the host by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ConfigError, KernelsUnavailableError
from llmbench.reference_engine.kernels import dispatch


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"device is cuda, but with this torch \(.*\) it .*; use device = cpu"):
        Engine(EngineConfig(model_path=Path("anywhere"), device="cuda"))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="device must be one of cpu, cuda; 'tpu' was given"):
        EngineConfig(model_path=Path("anywhere"), device="tpu")  # type: ignore[arg-type]


def test_the_cpu_s_kernels_are_refused_for_a_gpu() -> None:
    with pytest.raises(KernelsUnavailableError, match="run on the CPU, and the device is cuda"):
        dispatch.load("cpp", 1, torch.device("cuda"))
