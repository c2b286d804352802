"""From a step's plan to logits: the only place where scheduling data becomes tensors."""

from __future__ import annotations

import numpy as np
import torch

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.config import GraphsName, QuantizationName
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.graphs import DecodeGraphs, make_graphs
from llmbench.reference_engine.kernels.contract import Kernels
from llmbench.reference_engine.layers.rotary import RotaryTable
from llmbench.reference_engine.models.base import CausalLM
from llmbench.reference_engine.models.stored_weights import check_asked
from llmbench.reference_engine.scheduler import StepPlan
from llmbench.reference_engine.spans import Spans, no_spans
from llmbench.reference_engine.step_batch import StepArrays, StepBatch


class ModelRunner:
    """Runs the model on one plan after another; owns the KV cache's contents. Takes over the model's loaded weights."""

    def __init__(
        self,
        model: CausalLM,
        kv_cache: KVCache,
        kernels: Kernels,
        max_model_len: int,
        quantization: QuantizationName | None = None,
    ) -> None:
        if kv_cache.data.dtype not in kernels.cache_dtypes:
            held = str(kv_cache.data.dtype).removeprefix("torch.")
            raise ConfigError(
                f"The {kernels.name} kernels cannot keep keys and values as {held}; "
                "leave kv_cache_dtype at auto, or take other kernels."
            )
        check_asked(model.stored_quantization, quantization)
        self.model = model
        self.kv_cache = kv_cache
        config = model.config
        activation_dtype = kernels.activation_dtype(model.dtype)
        self.rotary: RotaryTable | None = None
        if config.rope is not None:
            self.rotary = RotaryTable(config.rope, config.head_dim, max_model_len, activation_dtype)
        self._max_model_len = max_model_len
        self.spans: Spans = no_spans
        self._graphs: DecodeGraphs | None = None
        with torch.inference_mode():
            model.prepare(kernels, quantization)

    @torch.inference_mode()
    def record_graphs(self, kind: GraphsName, max_num_seqs: int) -> None:
        """From here on, steps of up to max_num_seqs decodes run as graphs. See graphs.needs_scratch_block."""

        def step(batch: StepBatch) -> torch.Tensor:
            return self.model.logits(self.model(batch))

        self._graphs = make_graphs(kind, step, self.kv_cache, self.rotary, max_num_seqs, self._max_model_len)

    def move_blocks(self, plan: StepPlan) -> None:
        """What a step begins with; all there is to do where the plan has no chunks."""
        self.kv_cache.swap_blocks(plan.swap)
        self.kv_cache.copy_blocks(plan.copies)
        if plan.given_back:
            self.kv_cache.give_back(plan.given_back)

    def execute(self, plan: StepPlan) -> torch.Tensor:
        """Logits [n, vocab_size] of the last token of each chunk that samples, in the plan's order; fills the cache.

        A chunk with k drafts has k + 1 rows: of the sequence's last token, and of each draft.
        """
        with self.spans("prepare"):
            self.move_blocks(plan)
            step = _arrays(plan)
        if self._graphs is not None and _samples_every_row(plan):
            logits = self._graphs.run(step, self.spans)
            if logits is not None:
                return logits
        return self._compute(plan, step)

    @torch.inference_mode()
    def _compute(self, plan: StepPlan, step: StepArrays) -> torch.Tensor:
        """The step operator by operator."""
        with self.spans("prepare"):
            batch = step.batch(self.kv_cache, self.rotary)
        hidden = self.model(batch)
        last_rows: list[int] = []
        end = 0
        for chunk in plan.chunks:
            end += chunk.num_tokens
            if chunk.samples:
                last_rows += range(end - 1 - len(chunk.draft_token_ids), end)
        if not last_rows:
            return hidden.new_empty(0, self.model.config.vocab_size)
        # While all sequences decode, every row is sampled and nothing is to be picked.
        return self.model.logits(hidden if len(last_rows) == end else hidden[last_rows])


def _arrays(plan: StepPlan) -> StepArrays:
    """The plan in numbers; every chunk's tokens one after another."""
    token_ids: list[int] = []
    positions: list[int] = []
    spans: list[tuple[int, int, int]] = []
    tables: list[list[int]] = []
    for sequence, start, num_tokens, drafts in plan.chunks:
        end = start + num_tokens
        spans.append((len(token_ids), num_tokens, end))
        token_ids += sequence.token_ids[start : end - len(drafts)]
        token_ids += drafts
        positions += range(start, end)
        tables.append(sequence.block_table)
    width = max(map(len, tables))
    padded = [table + [0] * (width - len(table)) for table in tables]
    return StepArrays(
        np.array(token_ids, dtype=np.int64),
        np.array(positions, dtype=np.int64),
        np.array(spans, dtype=np.int64),
        # Places without a block are negative; kernels may read there what they do not use.
        np.maximum(np.array(padded, dtype=np.int64), 0),
        plan.num_decodes,
    )


def _samples_every_row(plan: StepPlan) -> bool:
    return all(chunk.num_tokens == 1 + len(chunk.draft_token_ids) and chunk.samples for chunk in plan.chunks)
