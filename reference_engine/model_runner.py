"""From a step's plan to logits: the only place where scheduling data becomes tensors."""

from __future__ import annotations

import torch

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.kernels.dispatch import AttentionKernels
from llmbench.reference_engine.layers.attention import PrefillSpan, StepBatch
from llmbench.reference_engine.layers.rotary import RotaryTable
from llmbench.reference_engine.models.base import CausalLM
from llmbench.reference_engine.scheduler import Chunk, StepPlan


class ModelRunner:
    """Runs the model on one plan after another; owns the KV cache's contents."""

    def __init__(self, model: CausalLM, kv_cache: KVCache, kernels: AttentionKernels, max_model_len: int) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.kernels = kernels
        config = model.config
        self.rotary = RotaryTable(config.rope, config.head_dim, max_model_len, kv_cache.data.dtype)

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> torch.Tensor:
        """Logits [n, vocab_size] of the last token of each chunk that samples, in the plan's order; fills the cache."""
        hidden = self.model(self._batch(plan))
        last_rows: list[int] = []
        end = 0
        for chunk in plan.chunks:
            end += chunk.num_tokens
            if chunk.samples:
                last_rows.append(end - 1)
        return self.model.logits(hidden[last_rows])

    def _batch(self, plan: StepPlan) -> StepBatch:
        """The plan as tensors; every chunk's tokens one after another."""
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for sequence, start, num_tokens in plan.chunks:
            token_ids += sequence.token_ids[start : start + num_tokens]
            positions += range(start, start + num_tokens)
            slots += self._slots(sequence.block_table, start, num_tokens)
        decodes = plan.chunks[: plan.num_decodes]
        width = max((len(chunk.sequence.block_table) for chunk in decodes), default=0)
        tables = [_padded(chunk.sequence.block_table, width) for chunk in decodes]
        position_tensor = torch.tensor(positions)
        cos, sin = self.rotary.at(position_tensor)
        return StepBatch(
            token_ids=torch.tensor(token_ids),
            positions=position_tensor,
            slots=torch.tensor(slots),
            num_decodes=plan.num_decodes,
            block_tables=torch.tensor(tables, dtype=torch.int64),
            context_lens=torch.tensor([chunk.start + 1 for chunk in decodes], dtype=torch.int64),
            prefills=_prefill_spans(plan.chunks[plan.num_decodes :], first_row=plan.num_decodes),
            kv_cache=self.kv_cache,
            kernels=self.kernels,
            cos=cos,
            sin=sin,
        )

    def _slots(self, block_table: list[int], start: int, num_tokens: int) -> list[int]:
        size = self.kv_cache.block_size
        return [block_table[p // size] * size + p % size for p in range(start, start + num_tokens)]


def _prefill_spans(chunks: tuple[Chunk, ...], first_row: int) -> tuple[PrefillSpan, ...]:
    spans: list[PrefillSpan] = []
    row = first_row
    for sequence, start, num_tokens in chunks:
        spans.append(PrefillSpan(row, num_tokens, torch.tensor(sequence.block_table), start + num_tokens))
        row += num_tokens
    return tuple(spans)


def _padded(block_table: list[int], width: int) -> list[int]:
    return block_table + [0] * (width - len(block_table))
