"""The tensors that hold keys and values, and how many blocks of them this engine gets."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch

from llmbench.reference_engine.cache.host_swap import SwapPlan
from llmbench.reference_engine.cache.lazy_memory import LazyMemory
from llmbench.reference_engine.config import DEFAULT_KV_CACHE_GIB, EngineConfig
from llmbench.reference_engine.device import memory_bytes
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.kernels.block_copies import block_bytes, copy_blocks
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.quantization.kv_formats import stored_width


class KVCachePlan(NamedTuple):
    """num_swap_blocks: of host memory for preempted sequences; 0 where they are computed again."""

    num_blocks: int
    max_model_len: int
    num_swap_blocks: int


def kv_bytes_per_token(model: ModelConfig, storage: torch.dtype) -> int:
    """Of all layers, scales included; `storage` is the cache's dtype."""
    return 2 * model.num_layers * model.num_kv_heads * stored_width(model.head_dim, storage) * storage.itemsize


def plan_kv_cache(config: EngineConfig, model: ModelConfig, storage: torch.dtype) -> KVCachePlan:
    """Number of blocks and context length such that one sequence of the context length always fits the cache.

    Raises ConfigError if the asked length is beyond the model or the cache, or the cache beyond the device's memory.
    """
    asked_len = config.max_model_len
    if asked_len is not None and asked_len > model.max_position_embeddings:
        raise ConfigError(f"max_model_len is {asked_len}, but the model's is {model.max_position_embeddings}.")
    longest = asked_len or model.max_position_embeddings
    size = config.block_size * kv_bytes_per_token(model, storage)
    num_blocks = config.num_blocks
    if num_blocks is None:
        affordable = int((config.kv_cache_gib or DEFAULT_KV_CACHE_GIB) * 2**30) // size
        if affordable == 0:
            given = "1 (the default)" if config.kv_cache_gib is None else config.kv_cache_gib
            raise ConfigError(
                f"kv_cache_gib = {given} is too small for one block of {config.block_size} tokens, which takes "
                f"{_gib(size)}; give a larger kv_cache_gib or a smaller block_size."
            )
        useful = config.max_num_seqs * -(-longest // config.block_size)
        num_blocks = min(affordable, useful)
    if asked_len is not None and num_blocks * config.block_size < asked_len:
        raise ConfigError(
            f"The KV cache holds {num_blocks} blocks of {config.block_size} tokens, too few for one sequence of "
            f"max_model_len = {asked_len}; give a larger num_blocks or kv_cache_gib, or a smaller max_model_len."
        )
    num_swap_blocks = 0 if config.preemption == "recompute" else config.num_swap_blocks or num_blocks
    _check_memory(config, num_blocks, num_swap_blocks, size)
    return KVCachePlan(num_blocks, min(longest, num_blocks * config.block_size), num_swap_blocks)


def _check_memory(config: EngineConfig, num_blocks: int, num_swap_blocks: int, size: int) -> None:
    """Raises ConfigError for blocks of `size` bytes that the device's or the host's memory could never hold.

    Said before a block is counted: the counts of some billion blocks would fill the memory by themselves.
    """
    levers = "kv_cache_gib" if config.num_blocks is None else "num_blocks or block_size"
    swapped = ""
    if num_swap_blocks:
        swapped = f", {num_swap_blocks} of them for preemption = swap,"
        levers = f"num_swap_blocks or {levers}"
    places = {"cpu": num_swap_blocks}
    places[config.device] = places.get(config.device, 0) + num_blocks
    for place, count in places.items():
        has = memory_bytes(torch.device(place))
        if has is not None and count * size > has:
            raise ConfigError(
                f"{count} blocks of {config.block_size} tokens{swapped if place == 'cpu' else ''} take "
                f"{_gib(count * size)}, and the memory of the {place} is {_gib(has)}; give a smaller {levers}."
            )


def _gib(num_bytes: int) -> str:
    gib = num_bytes / 2**30
    return f"{gib:,.1f} GiB" if gib >= 1 else f"{gib:.2g} GiB"


class KVCache:
    """Keys and values of every layer: `data` [num_layers, 2, num_blocks, block_size, num_kv_heads, stored width].

    The width is the head's size, and a scale more in int8: quantization/kv_formats.py.
    Token position p of a sequence is in slot `block_table[p // block_size] * block_size + p % block_size`. Kernels may
    order the numbers within a block as they like: nobody else reads them, and a block is copied as a whole.
    `host_data` is the same for the blocks of preempted sequences, in host memory. With `is_lazy`, on Linux and a CPU,
    blocks take no memory before they are written, and theirs can be given back. Raises ConfigError where there is not
    as much memory.
    """

    def __init__(
        self,
        model: ModelConfig,
        num_blocks: int,
        block_size: int,
        storage: torch.dtype,
        num_host_blocks: int = 0,
        is_lazy: bool = False,
    ) -> None:
        self.block_size = block_size
        width = stored_width(model.head_dim, storage)
        shape = (model.num_layers, 2, num_blocks, block_size, model.num_kv_heads, width)
        self._memory: LazyMemory | None = None
        try:
            if is_lazy:
                self._memory = LazyMemory(math.prod(shape) * storage.itemsize)
                self.data = self._memory.bytes.view(storage).view(shape)
            else:
                # Not empty: a padded gather reads slots never written, and 0 × nan is nan in spite of the mask.
                self.data = torch.zeros(shape, dtype=storage)
            self.host_data = torch.empty(
                (*shape[:2], num_host_blocks, *shape[3:]), dtype=storage, device="cpu", pin_memory=self.data.is_cuda
            )
        except (RuntimeError, OSError, OverflowError):  # torch's allocators, and mmap
            size = block_size * kv_bytes_per_token(model, storage)
            raise ConfigError(
                f"The keys and values of {num_blocks + num_host_blocks} blocks of {block_size} tokens take "
                f"{_gib((num_blocks + num_host_blocks) * size)} of memory, which is not to be had; give a smaller "
                "num_blocks or kv_cache_gib."
            ) from None
        # Keys and values of each layer, [num_blocks, block_size, num_kv_heads, stored width]; views, cut once.
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = [(layer[0], layer[1]) for layer in self.data]

    def swap_blocks(self, plan: SwapPlan) -> None:
        """Copy whole blocks to the host and from there, in all layers."""
        copy_blocks(self.host_data, self.data, plan.out)
        copy_blocks(self.data, self.host_data, plan.back)

    def give_back(self, blocks: range) -> None:
        """Let these blocks, behind which no others hold content, read as zeros and take no memory. Of a lazy cache."""
        assert self._memory is not None
        num_planes, num_blocks, size = 2 * self.data.shape[0], self.data.shape[2], block_bytes(self.data)
        for plane in range(num_planes):
            # To the plane's end: a write of these blocks took whole pages, and where pages are huge, some behind them.
            start, end = (plane * num_blocks + blocks.start) * size, (plane + 1) * num_blocks * size
            self._memory.give_back(start, end)

    def copy_blocks(self, copies: Collection[tuple[int, int]]) -> None:
        """Copy whole blocks, the first of each pair to the second, in this order and in all layers."""
        copy_blocks(self.data, self.data, copies)
