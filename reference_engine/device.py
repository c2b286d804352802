"""Where an engine's tensors are made."""

from __future__ import annotations

import contextlib
import os

import torch

from llmbench.reference_engine.config import DeviceName
from llmbench.reference_engine.errors import ConfigError


def resolve_device(name: DeviceName) -> torch.device:
    """The device of that name. Raises ConfigError, with what is missing, where this machine or torch has none."""
    if name == "cuda" and not torch.cuda.is_available():
        built_for = "CUDA" if torch.version.cuda else "HIP" if torch.version.hip else None
        missing = f"it finds no {built_for} device" if built_for else "it is built for neither CUDA nor HIP"
        raise ConfigError(f"device is cuda, but with this torch ({torch.__version__}) {missing}; use device = cpu.")
    return torch.device(name)


def memory_bytes(device: torch.device) -> int | None:
    """Bytes of memory that the device has, used or not; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def making_tensors_on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside it, new tensors land on the device. For the CPU, where they do so anyway, it costs nothing."""
    return contextlib.nullcontext() if device.type == "cpu" else device
