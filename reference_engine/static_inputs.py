"""A step's tensors at addresses that stay: what recorded steps read."""

from __future__ import annotations

import torch

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.layers.rotary import RotaryTable
from llmbench.reference_engine.step_batch import StepArrays, StepBatch


class StaticInputs:
    """Room for a step of num_rows tokens or fewer, with block tables of `width` blocks: rows are overwritten.

    Rows that no step has used yet are padding: sequences of one token in the KV cache's last block. Numbers are written
    to host memory by numpy, which does so several times faster than torch; on a CPU the tensors are that memory, and to
    a GPU it is copied from pinned pages.
    """

    def __init__(self, num_rows: int, width: int, kv_cache: KVCache, rotary: RotaryTable | None) -> None:
        self.num_rows = num_rows
        self.kv_cache = kv_cache
        self.rotary = rotary
        device = kv_cache.data.device
        self._scratch_block = kv_cache.data.shape[2] - 1
        shapes = (num_rows,), (num_rows,), (num_rows, 3), (num_rows, width)
        self._host = [
            torch.zeros(shape, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda") for shape in shapes
        ]
        token_ids, positions, spans, tables = (tensor.numpy() for tensor in self._host)
        self._arrays = StepArrays(token_ids, positions, spans, tables, num_rows)
        self._arrays.spans[:] = [(row, 1, 1) for row in range(num_rows)]
        self._arrays.block_tables[:] = self._scratch_block
        self._tensors = [tensor.to(device) for tensor in self._host]
        self.token_ids, self.positions, self.spans, self.block_tables = self._tensors
        self._num_used = 0

    def copy(self, step: StepArrays) -> None:
        """Take over the step's rows, and leave the others as they are."""
        self._write(step)
        self._send(len(step.token_ids), len(step.spans))

    def fill(self, step: StepArrays) -> None:
        """Take over a step of decodes; rows of the last call beyond them become padding again."""
        n = step.num_decodes
        last = max(n, self._num_used)
        self._arrays.token_ids[n:last] = 0
        self._arrays.positions[n:last] = 0
        self._arrays.spans[n:last, 2] = 1
        self._arrays.block_tables[n:last, 0] = self._scratch_block
        self._write(step)
        self._send(last, last)
        self._num_used = n

    def _write(self, step: StepArrays) -> None:
        num_rows, (num_spans, width) = len(step.token_ids), step.block_tables.shape
        self._arrays.token_ids[:num_rows] = step.token_ids
        self._arrays.positions[:num_rows] = step.positions
        self._arrays.spans[:num_spans] = step.spans
        self._arrays.block_tables[:num_spans, :width] = step.block_tables

    def _send(self, num_rows: int, num_spans: int) -> None:
        for tensor, host, n in zip(self._tensors, self._host, (num_rows, num_rows, num_spans, num_spans), strict=True):
            if tensor is not host:
                # No one waits: the next step is written when this one's tokens are known, and so after its copies.
                tensor[:n].copy_(host[:n], non_blocking=True)

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
