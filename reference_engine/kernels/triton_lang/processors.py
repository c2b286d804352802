"""How many programs run at once: what decides into how many parts a small piece of work is split."""

from __future__ import annotations

import functools

import torch


@functools.cache
def num_processors(device: torch.device) -> int:
    """Of a GPU, its multiprocessors; of Triton's interpreter, a number that makes it split."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8
