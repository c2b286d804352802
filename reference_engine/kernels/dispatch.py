"""Which kernels the model runs on: one line per set, imported when it is asked for."""

from __future__ import annotations

import importlib
import logging
from typing import cast

import torch

from llmbench.reference_engine.errors import ConfigError, KernelsUnavailableError
from llmbench.reference_engine.kernels.contract import Kernels

AUTO = "auto"
BACKENDS = {
    "torch": "llmbench.reference_engine.kernels.torch_kernels:TorchKernels",
    "cpp": "llmbench.reference_engine.kernels.cpp_kernels:CppKernels",
}

log = logging.getLogger(__name__)
# As it was before any kernels were loaded: the C++ ones take torch's threads for themselves.
DEFAULT_NUM_THREADS = torch.get_num_threads()


def load(name: str, num_threads: int | None = None) -> Kernels:
    """The kernels of that name on that many threads, torch's own number of them if None.

    "auto" is cpp where it compiles and torch elsewhere, with the reason in the log. Raises ConfigError for an unknown
    name, and KernelsUnavailableError for kernels that were asked for by name and cannot run here.
    """
    threads = num_threads or DEFAULT_NUM_THREADS
    if name == AUTO:
        try:
            return load("cpp", threads)
        except KernelsUnavailableError as error:
            log.warning("Using the torch kernels, which are several times slower. %s", error)
            return load("torch", threads)
    if name not in BACKENDS:
        raise ConfigError(f"kernels must be one of {', '.join((AUTO, *BACKENDS))}; {name!r} was given.")
    module, _, kernels = BACKENDS[name].partition(":")
    return cast(Kernels, getattr(importlib.import_module(module), kernels)(threads))
