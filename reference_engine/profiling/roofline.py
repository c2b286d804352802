"""What a step must read and compute, and what this machine can: the two ceilings of the roofline model.

Source: Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import torch

from llmbench.reference_engine.cache.kv_cache import kv_bytes_per_token
from llmbench.reference_engine.kernels.build import load_library
from llmbench.reference_engine.layers.linear import Linear
from llmbench.reference_engine.models.decoder import Decoder
from llmbench.reference_engine.scheduler import Chunk

PASSES = 8


class Work(NamedTuple):
    """Bytes that must come from memory or go there, if caches keep nothing from step to step; and operations, of which
    a multiplication and an addition are two. Activations are left out: they stay in caches."""

    num_bytes: int
    num_operations: int

    def __add__(self, other: object) -> Work:
        assert isinstance(other, Work)
        return Work(self.num_bytes + other.num_bytes, self.num_operations + other.num_operations)


class Ceilings(NamedTuple):
    """Of the machine, as measured: reading memory, and float32 matrix products by torch. Integers may be faster."""

    bytes_per_s: float
    operations_per_s: float


def read_bandwidth(num_threads: int) -> float:
    """Bytes per second that the C++ kernels' threads read from memory: the best of several passes over 1 GiB."""
    load_library()
    torch.ops.llmbench.set_num_threads(num_threads)
    memory = torch.ones(2**30, dtype=torch.uint8)
    return memory.numel() / min(_seconds(torch.ops.llmbench.checksum, memory) for _ in range(PASSES))


def measure_ceilings(num_threads: int) -> Ceilings:
    """Raises KernelsUnavailableError where there is no compiler for what reads memory."""
    bandwidth = read_bandwidth(num_threads)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    size = 1024
    square = torch.ones(size, size)
    seconds = min(_seconds(torch.mm, square, square) for _ in range(PASSES))
    torch.set_num_threads(before)
    return Ceilings(bandwidth, 2 * size**3 / seconds)


def _seconds(operator: object, *args: torch.Tensor) -> float:
    assert callable(operator)
    start = time.perf_counter()
    operator(*args)
    return time.perf_counter() - start


class ModelWork:
    """Work of each part of a model whose weights are with their kernels."""

    def __init__(self, model: Decoder, cache_dtype: torch.dtype) -> None:
        self._config = model.config
        self._weights = {
            "attention": [linear for layer in model.layers for linear in linears(layer.attention)],
            "MLP": [linear for layer in model.layers for linear in linears(layer.mlp)],
            "head": [model.head],
        }
        self._kv_bytes = kv_bytes_per_token(model.config, cache_dtype)

    def of_step(self, chunks: Iterable[Chunk], num_sampled: int) -> dict[str, Work]:
        """Part to its work; num_sampled rows get logits."""
        chunks = list(chunks)
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        rows = {"attention": num_tokens, "MLP": num_tokens, "head": num_sampled}
        work = {
            part: Work(
                sum(linear.weight_bytes for linear in linears) if rows[part] else 0,
                sum(2 * linear.num_weights * rows[part] for linear in linears),
            )
            for part, linears in self._weights.items()
        }
        work["attention"] += self._cache_work(chunks)
        return work

    def _cache_work(self, chunks: Iterable[Chunk]) -> Work:
        """Keys and values are written once, and read once per sequence; each token is multiplied with all it sees."""
        config = self._config
        window = config.sliding_window or config.max_position_embeddings
        num_touched = num_products = 0
        for chunk in chunks:
            end = chunk.start + chunk.num_tokens
            num_touched += chunk.num_tokens + min(end, window + chunk.num_tokens - 1)
            num_products += sum(min(position + 1, window) for position in range(chunk.start, end))
        per_product = 4 * config.num_layers * config.num_heads * config.head_dim
        return Work(num_touched * self._kv_bytes, num_products * per_product)


def linears(part: object) -> list[Linear]:
    """The linear layers that a part of a layer consists of."""
    return [value for value in vars(part).values() if isinstance(value, Linear)]
