"""Choosing a device: what is not there is refused in words, and nothing of a step stays on the host by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ConfigError, KernelsUnavailableError
from llmbench.reference_engine.kernels import dispatch
from llmbench.reference_engine.kernels.torch_kernels import TorchKernels
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.models.llama import Llama
from llmbench.reference_engine.models.loader import read_model_config
from llmbench.reference_engine.models.synthetic import create
from llmbench.reference_engine.step_batch import StepBatch


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


def test_a_decode_step_makes_no_tensor_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's device without data: it refuses to mix with the host's tensors, as a GPU would."""
    config = read_model_config(create("synthetic:llama-tiny", out=tmp_path / "checkpoint"))
    device = torch.device("meta")
    # Loading asks whether a checkpoint was quantised, and here no number is there to answer.
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: False)
    with device, torch.inference_mode():
        model = Llama(config, torch.float32)
        runner = ModelRunner(model, KVCache(config, 8, 16, torch.float32), TorchKernels(1, device), 128)
        rows, spans, tables = (torch.zeros(shape, dtype=torch.int64) for shape in ((3,), (3, 3), (3, 2)))
        batch = StepBatch(rows, rows, spans, tables, 3, runner.kv_cache, runner.rotary)
        logits = model.logits(model(batch))
    assert logits.device == device
    assert logits.shape == (3, config.vocab_size)
