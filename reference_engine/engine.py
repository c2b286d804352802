"""The engine: requests in, tokens out, one step at a time. The life of a request is the methods below, in order.

    add_request ── Sequence ──▶ scheduler.waiting, or first form_queue.py while the form of its answer is compiled
    step ── 0. proposer.propose(...)  only with speculation: drafts of the next tokens
            1. scheduler.schedule()   who runs, how many tokens of each, in which KV blocks   (counts, no tensors)
            2. runner.execute(plan)   keys and values into the cache, logits out              (tensors, no decisions)
            3. sampler.sample(...)    one token per sequence that reached its end, and one more per draft
            4. append, finish, free   what the caller sees as StepOutput; drafts count while they are what was chosen,
                                      and beams give way to their best children
    finish / abort ── at any time between steps: the request is forgotten, its blocks are free

An Engine is not thread-safe: one thread calls it. A server gives it a thread of its own and talks to it by queues.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from functools import cached_property
from itertools import islice

import torch

from llmbench.reference_engine.beam_search import BeamGroup, BeamParams, check_room
from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.cache.compaction import make_compaction
from llmbench.reference_engine.cache.host_swap import HostSwap
from llmbench.reference_engine.cache.kv_cache import KVCache, kv_bytes_per_token, plan_kv_cache
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.device import making_tensors_on, resolve_device
from llmbench.reference_engine.errors import CheckpointError, RequestError
from llmbench.reference_engine.form_queue import FormQueue, broken
from llmbench.reference_engine.graphs import needs_scratch_block, resolve
from llmbench.reference_engine.guides import GuideMaker
from llmbench.reference_engine.kernels import dispatch
from llmbench.reference_engine.limits import Limits
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.models.loader import load_model
from llmbench.reference_engine.outputs import EngineStats, StepOutput
from llmbench.reference_engine.quantization.kv_formats import storage_dtype
from llmbench.reference_engine.sampler import SampledToken, sample
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import Chunk, Scheduler
from llmbench.reference_engine.sequence import FinishReason, Sequence
from llmbench.reference_engine.spans import Spans, no_spans
from llmbench.reference_engine.speculative.choice import make_proposer, model_configs
from llmbench.reference_engine.speculative.proposer import Proposer, next_draft_limit
from llmbench.reference_engine.tokenizer import StopFinder, Tokenizer

__all__ = ["Engine", "EngineStats", "StepOutput"]

# How long a step without work waits: the engine is asked again while a dynamic batch is not full or a form not ready.
_IDLE_S = 0.0005

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Engine:
    """A loaded model that serves many requests at once.

    Raises ConfigError or CheckpointError when made. `config` is the given one with `num_blocks` and `max_model_len`
    filled in.
    """

    def __init__(self, config: EngineConfig) -> None:
        device = resolve_device(config.device)
        self._on_device = making_tensors_on(device)
        self._kernels = dispatch.load(config.kernels, config.num_threads, device, model_configs(config))
        dtype = DTYPES[config.dtype]
        with self._on_device:
            model = load_model(config.model_path, dtype)
        storage = storage_dtype(config.kv_cache_dtype, dtype)
        plan = plan_kv_cache(config, model.config, storage)
        self.config = dataclasses.replace(
            config, num_blocks=plan.num_blocks, kv_cache_gib=None, max_model_len=plan.max_model_len
        )
        self.model_config: ModelConfig = model.config
        self.max_model_len = plan.max_model_len
        self.limits = Limits(plan.max_model_len, model.config.vocab_size)
        self.eos_token_ids = model.config.eos_token_ids
        self._pool = BlockPool(plan.num_blocks, config.eviction)
        # What the checkpoint's weights were rounded to when it was written; None for one that was not.
        self.stored_quantization = model.stored_quantization
        self._tables = BlockTables(
            self._pool,
            config.block_size,
            config.prefix_cache,
            model.config.sliding_window,
            HostSwap(plan.num_swap_blocks) if plan.num_swap_blocks else None,
        )
        self._compaction = make_compaction(
            config, self._tables, config.block_size * kv_bytes_per_token(model.config, storage)
        )
        self._scheduler = Scheduler(
            self._tables,
            config.max_num_seqs,
            config.max_num_batched_tokens,
            batching_policy=config.batching,
            max_delay_ns=round(config.max_batch_delay_ms * 1e6),
            order=config.step_order,
            compaction=self._compaction,
            fairness=config.fairness,
        )
        with self._on_device:
            graphs = resolve(config.graphs, self._kernels, device)
            num_blocks = plan.num_blocks + needs_scratch_block(graphs)
            is_lazy = self._compaction is not None
            kv_cache = KVCache(model.config, num_blocks, config.block_size, storage, plan.num_swap_blocks, is_lazy)
            self._runner = ModelRunner(model, kv_cache, self._kernels, plan.max_model_len, config.quantization)
            if graphs != "off":
                self._runner.record_graphs(graphs, config.max_num_seqs)
            self._proposer = make_proposer(self.config, self.model_config, self._kernels, dtype)
        self._forms = FormQueue(GuideMaker(config.model_path, model.config.vocab_size, self.eos_token_ids))
        self.spans: Spans = no_spans
        self._sequences: dict[str, Sequence] = {}
        self._request_seeds = random.Random(config.seed)
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_generated_tokens = 0
        self._num_computed_tokens = 0
        self._num_finished = 0
        self._num_aborted = 0
        self._num_draft_tokens = 0
        self._num_accepted_tokens = 0

    def add_request(
        self,
        request_id: str,
        prompt_token_ids: SequenceOf[int],
        params: SamplingParams | BeamParams,
        priority: int = 0,
        user: str | None = None,
    ) -> None:
        """Queue a request; the lower its priority, the sooner it is served. BeamParams ask for a beam search.

        `user` is whose request it is, for fairness = "vtc"; those that name none are one user's.

        Raises RequestError, and changes nothing, if it could never be served; whether the form of an answer can be kept
        is known later, and a step brings the error of one that cannot.
        """
        if request_id in self._sequences:
            raise RequestError(f"Request id {request_id!r} is already being served.")
        if isinstance(params, BeamParams):
            sequence = self._first_beam(request_id, prompt_token_ids, params, priority, user)
        else:
            sequence = self._sequence(request_id, prompt_token_ids, params, priority, user)
        self._sequences[request_id] = sequence
        self._scheduler.note_arrival(sequence)
        if isinstance(params, SamplingParams) and params.grammar is not None:
            self._forms.add(sequence, params.grammar)
        else:
            self._scheduler.enqueue(sequence)
        self._num_prompt_tokens += sequence.num_prompt_tokens

    def _sequence(
        self,
        request_id: str,
        prompt_token_ids: SequenceOf[int],
        params: SamplingParams,
        priority: int,
        user: str | None,
    ) -> Sequence:
        self.limits.check(prompt_token_ids, params.max_tokens, params.named_token_ids)
        drawn_seed = self._request_seeds.getrandbits(64)
        seed = drawn_seed if params.seed is None else params.seed
        sequence = Sequence(request_id, prompt_token_ids, params, seed, priority, user)
        sequence.draft_limit = 0 if self._proposer is None else self.config.num_speculative_tokens
        return sequence

    def _first_beam(
        self, request_id: str, prompt_token_ids: SequenceOf[int], params: BeamParams, priority: int, user: str | None
    ) -> Sequence:
        self.limits.check(prompt_token_ids, params.max_tokens, params.named_token_ids)
        check_room(
            params,
            len(prompt_token_ids),
            block_size=self.config.block_size,
            num_blocks=self._pool.num_blocks,
            max_num_seqs=self.config.max_num_seqs,
        )
        has_stop = StopFinder(self._tokenizer, prompt_token_ids, params.stop) if params.stop else None
        beams = BeamGroup(request_id, prompt_token_ids, params, self.eos_token_ids, priority, has_stop, user)
        return beams.members[0]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """Read by beams with stop texts alone: whose text ends decides which of them go on."""
        try:
            return Tokenizer(self.config.model_path)
        except CheckpointError as error:
            raise RequestError(f"Beams cannot be searched for stop texts: {error}") from None

    def step(self) -> list[StepOutput]:
        """Compute one step. One output per request that got a token, or whose beam search has ended with it; a prefill
        that is not done yet brings none."""
        with self._on_device:
            return self._step()

    def _step(self) -> list[StepOutput]:
        ready, refused = self._forms.take_ready()
        for sequence in ready:
            self._scheduler.enqueue(sequence)
        for output in refused:
            del self._sequences[output.request_id]
            self._num_aborted += 1
        if self._proposer is not None:
            with self.spans("draft"):
                self._draft(self._proposer)
        with self.spans("schedule"):
            plan = self._scheduler.schedule()
        if not plan.chunks:
            self._runner.move_blocks(plan)
            if self._sequences:
                self._forms.wait(_IDLE_S)
            return refused
        if self._proposer is not None:
            for request_id in plan.preempted:
                self._proposer.forget(request_id)
        # What can be done before the model runs is: it drives Python's code and objects out of the caches.
        chunks = [chunk for chunk in plan.chunks if chunk.samples]
        sequences = [chunk.sequence for chunk in chunks]
        drafts = None if self._proposer is None else [chunk.draft_token_ids for chunk in chunks]
        self._num_steps += 1
        self._num_computed_tokens += plan.num_tokens
        logits = self._runner.execute(plan)
        self._scheduler.commit(plan)
        with self.spans("sample"):
            tokens = iter(sample(logits, sequences, self.eos_token_ids, self._kernels.argmax, drafts))
        with self.spans("deliver"):
            return refused + self._deliver_all(chunks, tokens)

    def _deliver_all(self, chunks: SequenceOf[Chunk], tokens: Iterator[SampledToken]) -> list[StepOutput]:
        """Each chunk takes one of `tokens`, and one more per draft; groups of beams go on when all have theirs."""
        now_ns = time.perf_counter_ns()
        outputs: list[StepOutput] = []
        best_of_beams: dict[BeamGroup, list[SequenceOf[tuple[int, float]]]] = {}
        for chunk in chunks:
            new = list(islice(tokens, 1 + len(chunk.draft_token_ids)))
            if chunk.sequence.beams is None:
                outputs.append(self._deliver(chunk, new, now_ns))
            else:
                assert new[0].logprobs is not None
                best_of_beams.setdefault(chunk.sequence.beams, []).append(new[0].logprobs.top)
        for beams, best in best_of_beams.items():
            outputs += self._advance(beams, best, now_ns)
        return outputs

    def _draft(self, proposer: Proposer) -> None:
        decoding = [
            sequence
            for sequence in self._scheduler.running
            if sequence.num_uncomputed_tokens == 1 and sequence.beams is None
        ]
        most = self.config.speculative_max_seqs
        if most is None or len(decoding) <= most:
            proposer.propose(decoding)
            return
        for sequence in decoding:
            sequence.draft_token_ids = []

    def _deliver(self, chunk: Chunk, tokens: list[SampledToken], now_ns: int) -> StepOutput:
        """Append what was chosen: up to the first token that is not the draft whose place it has, or the last one."""
        sequence, drafts = chunk.sequence, chunk.draft_token_ids
        num_new = 0
        for token in tokens:
            sequence.append(token.token_id, self.eos_token_ids)
            num_new += 1
            if sequence.finish_reason is not None or num_new > len(drafts) or token.token_id != drafts[num_new - 1]:
                break
        num_accepted = self._note_drafts(chunk, num_new) if drafts else 0
        self._num_generated_tokens += num_new
        if sequence.finish_reason == "abort":
            self.abort(sequence.request_id)
            return broken(sequence)
        if sequence.finish_reason is not None:
            self._forget(sequence)
            self._num_finished += 1
        new = tokens[:num_new]
        assert sequence.num_cached_tokens is not None
        return StepOutput(
            sequence.request_id,
            [token.token_id for token in new],
            sequence.finish_reason,
            sequence.num_cached_tokens,
            None if sequence.params.logprobs is None else [token.logprobs for token in new if token.logprobs],
            sequence.stamps.got_tokens(now_ns),
            len(drafts),
            num_accepted,
        )

    def _advance(
        self, beams: BeamGroup, best: SequenceOf[SequenceOf[tuple[int, float]]], now_ns: int
    ) -> list[StepOutput]:
        """Put the children in the beams' place; or, when the search has ended, the one output that it brings."""
        parents = beams.members
        times = parents[0].stamps.got_tokens(now_ns)
        families = beams.advance(best)
        if families:
            self._scheduler.replace(families, parents)
            return []
        num_cached_tokens = parents[0].num_cached_tokens
        assert num_cached_tokens is not None
        self._forget(self._sequences[beams.request_id])
        self._num_finished += 1
        answers = beams.answers()
        self._num_generated_tokens += sum(len(answer.token_ids) for answer in answers)
        reason = answers[0].finish_reason
        return [StepOutput(beams.request_id, [], reason, num_cached_tokens, None, times, beams=answers)]

    def _note_drafts(self, chunk: Chunk, num_new: int) -> int:
        """How many of the chunk's drafts are among the num_new tokens that were appended."""
        sequence, drafts = chunk.sequence, chunk.draft_token_ids
        # The last new token was accepted too if it ended the sequence as the draft that it is.
        is_last_accepted = num_new <= len(drafts) and sequence.token_ids[-1] == drafts[num_new - 1]
        num_accepted = num_new if is_last_accepted else num_new - 1
        self._scheduler.accept(sequence, num_accepted)
        sequence.draft_limit = next_draft_limit(
            sequence.draft_limit, len(drafts), num_accepted, self.config.num_speculative_tokens
        )
        self._num_draft_tokens += len(drafts)
        self._num_accepted_tokens += num_accepted
        return num_accepted

    def finish(self, request_id: str, reason: FinishReason = "stop") -> bool:
        """End a request from outside, as a stop string does; no StepOutput follows.

        False if there is no such request: it may have finished in the step that its caller has not read yet.
        """
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return False
        sequence.finish_reason = reason
        self._forget(sequence)
        if reason == "abort":
            self._num_aborted += 1
        else:
            self._num_finished += 1
        return True

    def abort(self, request_id: str) -> bool:
        """Give a request up, waiting or running, and free its blocks; no StepOutput follows. False if there is none."""
        return self.finish(request_id, "abort")

    def _forget(self, sequence: Sequence) -> None:
        if not self._forms.remove(sequence):
            for member in [sequence] if sequence.beams is None else sequence.beams.members:
                self._scheduler.remove(member)
        if self._proposer is not None:
            self._proposer.forget(sequence.request_id)
        del self._sequences[sequence.request_id]

    def has_work(self) -> bool:
        """True while `step` does something: without any request too, as long as memory is to be given back."""
        has_drafts = self._proposer is not None and self._proposer.has_work()
        return self._scheduler.has_work() or has_drafts or len(self._forms) > 0

    def stats(self) -> EngineStats:
        swap = self._tables.swap
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._forms) + len(self._scheduler.waiting),
            num_blocks_used=self._pool.num_used,
            num_blocks=self._pool.num_blocks,
            block_size=self.config.block_size,
            num_swap_blocks_used=0 if swap is None else swap.pool.num_used,
            num_resident_blocks=(
                self._pool.num_blocks if self._compaction is None else self._compaction.num_resident_blocks
            ),
            num_steps=self._num_steps,
            num_preemptions=self._scheduler.num_preemptions,
            num_overtakings=self._scheduler.num_overtakings,
            num_prompt_tokens=self._num_prompt_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_computed_tokens=self._num_computed_tokens,
            num_finished=self._num_finished,
            num_aborted=self._num_aborted,
            num_cache_queried_tokens=self._tables.num_queried_tokens,
            num_cache_hit_tokens=self._tables.num_hit_tokens,
            num_evicted_blocks=self._pool.num_evicted,
            num_swapped_blocks=0 if swap is None else swap.num_swapped_blocks,
            num_swapped_requests=0 if swap is None else swap.num_swapped_requests,
            num_draft_tokens=self._num_draft_tokens,
            num_accepted_tokens=self._num_accepted_tokens,
            num_moved_blocks=0 if self._compaction is None else self._compaction.num_moved_blocks,
        )

    def close(self) -> None:
        """No more requests will come; returns when nothing is computed any more beside the caller's thread."""
        self._forms.close()

    def check_integrity(self) -> None:
        """Raise RuntimeError if a KV block is leaked or in two tables; for tests and debugging."""
        self._scheduler.check_integrity()
