"""Drafts from a smaller model that decodes ahead of the large one. Source: arXiv:2211.17192, arXiv:2302.01318."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from pathlib import Path

import torch

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.cache.compaction import make_compaction
from llmbench.reference_engine.cache.kv_cache import KVCache, kv_bytes_per_token
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.graphs import needs_scratch_block, resolve
from llmbench.reference_engine.kernels.contract import Kernels
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.models.loader import load_model
from llmbench.reference_engine.models.stored_weights import check_asked
from llmbench.reference_engine.quantization.kv_formats import storage_dtype
from llmbench.reference_engine.sampler import sample
from llmbench.reference_engine.scheduler import Chunk, StepPlan
from llmbench.reference_engine.sequence import Sequence


class Shadow:
    """A sequence as the draft model sees it: the text that both models share, and then its own drafts."""

    def __init__(self, target: Sequence) -> None:
        self.sequence = Sequence(target.request_id, target.token_ids, target.params, target.seed)
        self.sequence.num_prompt_tokens = target.num_prompt_tokens
        self.num_shared_tokens = target.num_tokens

    def follow(self, target: Sequence) -> None:
        """Take over what the target has become; the keys and values of rejected drafts are forgotten."""
        own, theirs = self.sequence.token_ids, target.token_ids
        num_equal = self.num_shared_tokens
        while num_equal < min(len(own), len(theirs)) and own[num_equal] == theirs[num_equal]:
            num_equal += 1
        own[num_equal:] = theirs[num_equal:]
        # The last token is computed again if need be: its logits are the next draft.
        self.sequence.num_computed_tokens = min(self.sequence.num_computed_tokens, num_equal, len(theirs) - 1)
        self.num_shared_tokens = len(theirs)


class DraftModelProposer:
    """A draft is what the draft model would choose with the request's parameters and random numbers.

    `config` is the engine's, with num_blocks and max_model_len filled in: the draft model gets a KV cache of its own
    with as many blocks. Raises CheckpointError, or ConfigError for a model that cannot stand in for `target`.
    """

    def __init__(
        self, folder: Path, config: EngineConfig, target: ModelConfig, kernels: Kernels, dtype: torch.dtype
    ) -> None:
        assert config.num_blocks is not None
        assert config.max_model_len is not None
        model = load_model(folder, dtype)
        check_fits(folder, model.config, target, config.max_model_len)
        check_asked(model.stored_quantization, config.quantization, f"speculative = {folder}: its")
        self._eos_token_ids: Collection[int] = target.eos_token_ids
        self._max_num_batched_tokens = config.max_num_batched_tokens
        self._argmax = kernels.argmax
        self._tables = BlockTables(BlockPool(config.num_blocks), config.block_size)
        storage = storage_dtype(config.kv_cache_dtype, dtype)
        self._compaction = make_compaction(
            config, self._tables, config.block_size * kv_bytes_per_token(model.config, storage)
        )
        graphs = resolve(config.graphs, kernels, torch.device(config.device))
        if graphs == "compile":  # it would take its minute a second time
            graphs = "off"
        kv_cache = KVCache(
            model.config,
            config.num_blocks + needs_scratch_block(graphs),
            config.block_size,
            storage,
            is_lazy=self._compaction is not None,
        )
        self._runner = ModelRunner(model, kv_cache, kernels, config.max_model_len, config.quantization)
        if graphs != "off":
            self._runner.record_graphs(graphs, config.max_num_seqs)
        self._shadows: dict[str, Shadow] = {}

    def has_work(self) -> bool:
        return self._compaction is not None and self._compaction.is_due()

    def propose(self, sequences: SequenceOf[Sequence]) -> None:
        if self._compaction is not None:
            given_back = self._compaction.plan(shadow.sequence for shadow in self._shadows.values())
            self._runner.move_blocks(StepPlan((), 0, (), self._tables.take_copies(), given_back=given_back))
        ahead: dict[str, Sequence] = {}
        for target in sequences:
            target.draft_token_ids = []
            shadow = self._shadows.get(target.request_id)
            if shadow is None:
                shadow = self._shadows[target.request_id] = Shadow(target)
            shadow.follow(target)
            if target.max_draft_tokens > 0:
                ahead[target.request_id] = shadow.sequence
        targets = {sequence.request_id: sequence for sequence in sequences}
        while ahead:
            for request_id, token_id in self._step(ahead.values()):
                target = targets[request_id]
                target.draft_token_ids.append(token_id)
                ahead[request_id].token_ids.append(token_id)
                if len(target.draft_token_ids) == target.max_draft_tokens:
                    del ahead[request_id]
            for request_id in [name for name in ahead if name not in self._shadows]:
                del ahead[request_id]

    def forget(self, request_id: str) -> None:
        shadow = self._shadows.pop(request_id, None)
        if shadow is not None:
            self._tables.release(shadow.sequence)

    def _step(self, sequences: Collection[Sequence]) -> list[tuple[str, int]]:
        """The next token of each sequence that is computed to its end; one that finds no blocks is forgotten."""
        budget = self._max_num_batched_tokens
        chunks: list[Chunk] = []
        for sequence in sequences:
            num_tokens = min(sequence.num_uncomputed_tokens, budget)
            if num_tokens == 0:
                continue
            if not self._tables.grow(sequence, sequence.num_computed_tokens + num_tokens):
                self.forget(sequence.request_id)
                continue
            chunks.append(Chunk(sequence, sequence.num_computed_tokens, num_tokens))
            budget -= num_tokens
        if not chunks:
            return []
        chunks.sort(key=lambda chunk: chunk.num_tokens > 1)
        num_decodes = sum(chunk.num_tokens == 1 for chunk in chunks)
        logits = self._runner.execute(StepPlan(tuple(chunks), num_decodes, ()))
        sampled = [chunk.sequence for chunk in chunks if chunk.samples]
        for chunk in chunks:
            self._tables.commit(chunk.sequence, chunk.start + chunk.num_tokens)
        tokens = sample(logits, sampled, self._eos_token_ids, self._argmax)
        return [(sequence.request_id, token.token_id) for sequence, token in zip(sampled, tokens, strict=True)]


def check_fits(folder: Path, draft: ModelConfig, target: ModelConfig, max_model_len: int) -> None:
    """Raises ConfigError if the draft model's tokens or context are not the target's."""
    if draft.vocab_size != target.vocab_size:
        raise ConfigError(
            f"speculative = {folder} has a vocabulary of {draft.vocab_size} tokens; the model has {target.vocab_size}, "
            "and both must have the same."
        )
    if draft.max_position_embeddings < max_model_len:
        raise ConfigError(
            f"speculative = {folder} has a context of {draft.max_position_embeddings} tokens; give a max_model_len of "
            f"no more than that, it is {max_model_len}."
        )
