"""A step's tensors at addresses that stay: what recorded steps read."""

from __future__ import annotations

import torch

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.layers.rotary import RotaryTable
from llmbench.reference_engine.step_batch import StepBatch


class StaticInputs:
    """Room for a batch of num_rows tokens or fewer, with block tables of `width` blocks: rows are overwritten.

    Rows that no step has used yet are padding: sequences of one token in the KV cache's last block.
    """

    def __init__(self, num_rows: int, width: int, kv_cache: KVCache, rotary: RotaryTable | None) -> None:
        self.num_rows = num_rows
        self.kv_cache = kv_cache
        self.rotary = rotary
        self.device = kv_cache.data.device
        self._scratch_block = kv_cache.data.shape[2] - 1
        self.token_ids = self._zeros(num_rows)
        self.positions = self._zeros(num_rows)
        self.spans = self._zeros(num_rows, 3)
        self.spans[:, 0] = torch.arange(num_rows, device=self.device)
        self.spans[:, 1:] = 1
        self.block_tables = self._zeros(num_rows, width) + self._scratch_block
        self._num_used = 0

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=self.device)

    def copy(self, batch: StepBatch) -> None:
        """Take over the batch's rows, and leave the others as they are."""
        num_rows, (num_spans, width) = len(batch.token_ids), batch.block_tables.shape
        self.token_ids[:num_rows].copy_(batch.token_ids)
        self.positions[:num_rows].copy_(batch.positions)
        self.spans[:num_spans].copy_(batch.spans)
        self.block_tables[:num_spans, :width].copy_(batch.block_tables)

    def fill(self, batch: StepBatch) -> None:
        """Take over a batch of decodes; rows of the last call beyond them become padding again."""
        n = batch.num_decodes
        stale = slice(n, max(n, self._num_used))
        self.token_ids[stale] = 0
        self.positions[stale] = 0
        self.spans[stale, 2] = 1
        self.block_tables[stale, 0] = self._scratch_block
        self.copy(batch)
        self._num_used = n

    def batch(self, num_rows: int, num_spans: int) -> StepBatch:
        """The first tokens and sequences."""
        return StepBatch(
            self.token_ids[:num_rows],
            self.positions[:num_rows],
            self.spans[:num_spans],
            self.block_tables[:num_spans],
            num_spans if num_rows == num_spans else 0,
            self.kv_cache,
            self.rotary,
        )
