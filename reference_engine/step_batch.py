"""One step's work as arrays, and as tensors: what the runner hands to the model, and its attention to the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.layers.rotary import RotaryTable

Array = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# Queries that one program of a tiled prefill kernel takes.
TILE_ROWS = 64


class StepArrays(NamedTuple):
    """A step's numbers on the host; see StepBatch."""

    token_ids: Array
    positions: Array
    spans: Array
    block_tables: Array
    num_decodes: int

    def batch(self, kv_cache: KVCache, rotary: RotaryTable | None) -> StepBatch:
        """The same as tensors, beside the cache."""
        device = kv_cache.data.device
        token_ids, positions, spans, tables = (torch.from_numpy(array).to(device) for array in self[:4])
        return StepBatch(token_ids, positions, spans, tables, self.num_decodes, kv_cache, rotary)


@dataclass(frozen=True, eq=False)
class StepBatch:
    """The tokens of one step, flattened: first one row per decoding sequence, then the prefill chunks.

    token_ids, positions [T] int64. spans [S, 3] int64, a row per sequence: its first row, its number of rows, and its
    number of tokens up to and including the last of these; block_tables [S, M] int64, padded with block 0.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    spans: torch.Tensor
    block_tables: torch.Tensor
    num_decodes: int
    kv_cache: KVCache
    rotary: RotaryTable | None

    # The rest is read by the torch and Triton kernels, and computed once for all layers.

    @cached_property
    def span_list(self) -> list[list[int]]:
        spans: list[list[int]] = self.spans.tolist()
        return spans

    @cached_property
    def context_lens(self) -> torch.Tensor:
        """Tokens of each sequence up to and including its last one in this step, [S] int64, contiguous."""
        return self.spans[:, 2].contiguous()

    @cached_property
    def slots(self) -> torch.Tensor:
        """Where each token's key and value go, [T] int64: block id * block_size + offset."""
        size = self.kv_cache.block_size
        # While all sequences decode, token i is sequence i's: to count their tokens would make the host wait for a GPU.
        all_decode = self.num_decodes == len(self.spans)
        owners = torch.arange(self.num_decodes) if all_decode else torch.repeat_interleave(self.spans[:, 1])
        return self.block_tables[owners, self.positions // size] * size + self.positions % size

    @cached_property
    def rotation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [T, 1, rotary_dim] of the tokens' positions."""
        assert self.rotary is not None
        return self.rotary.at(self.positions)

    @cached_property
    def prefill_tiles(self) -> torch.Tensor:
        """[num_tiles, 2] int64 (row of spans, first query in it): TILE_ROWS at a time, all that is not a decode."""
        tiles = [
            (index, first)
            for index, (_, num_tokens, _) in enumerate(self.span_list)
            for first in range(0, num_tokens, TILE_ROWS)
            if index >= self.num_decodes
        ]
        return torch.tensor(tiles, dtype=torch.int64, device=self.spans.device).view(-1, 2)
