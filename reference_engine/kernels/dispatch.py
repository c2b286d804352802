"""Which kernels the model runs on: one line per set, imported when it is asked for."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import cast

import torch

from llmbench.reference_engine.errors import ConfigError, KernelsUnavailableError
from llmbench.reference_engine.kernels.contract import HeadLayout, Kernels
from llmbench.reference_engine.models.config import ModelConfig

AUTO = "auto"
BACKENDS = {
    "torch": "llmbench.reference_engine.kernels.torch_kernels:TorchKernels",
    "cpp": "llmbench.reference_engine.kernels.cpp_kernels:CppKernels",
    "triton": "llmbench.reference_engine.kernels.triton_kernels:TritonKernels",
}
# The fastest that was written for a device; torch runs on every one.
FASTEST = {"cpu": "cpp", "cuda": "triton"}
CPU = torch.device("cpu")

log = logging.getLogger(__name__)
# As it was before any kernels were loaded: the C++ ones take torch's threads for themselves.
DEFAULT_NUM_THREADS = torch.get_num_threads()


def load(
    name: str, num_threads: int | None = None, device: torch.device = CPU, models: Sequence[ModelConfig] = ()
) -> Kernels:
    """The kernels of that name, for tensors on that device; on a CPU with num_threads, torch's own number if None.

    "auto" is the fastest for the device where it can run with all of the models, and torch elsewhere, with the reason
    in the log. Raises ConfigError for an unknown name, and KernelsUnavailableError for kernels that were asked for by
    name and cannot run here, or not with one of the models.
    """
    threads = num_threads or DEFAULT_NUM_THREADS
    if name == AUTO:
        try:
            return load(FASTEST[device.type], threads, device, models)
        except KernelsUnavailableError as error:
            log.warning("Using the torch kernels, which are several times slower. %s", error)
            return load("torch", threads, device)
    if name not in BACKENDS:
        raise ConfigError(f"kernels must be one of {', '.join((AUTO, *BACKENDS))}; {name!r} was given.")
    module, _, kernels = BACKENDS[name].partition(":")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise KernelsUnavailableError('The Triton-language kernels need: pip install "llmbench[gpu]".') from None
    made = cast(Kernels, getattr(loaded, kernels)(threads, device))
    for model in models:
        made.attention(HeadLayout(model.num_heads, model.num_kv_heads, model.head_dim, scale=1.0))
    return made
