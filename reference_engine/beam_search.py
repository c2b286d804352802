"""The most probable continuations of a prompt, found by beam search over shared KV blocks.

Beams are sequences that fork: a child reads its parent's blocks, and copies the last, half-filled one when it writes to
it. So beams that agree on all but their last tokens share all but their last blocks. Source: arXiv:2309.06180 §4.4.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import NamedTuple

import torch

from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import Chunk, StepPlan
from llmbench.reference_engine.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamParams:
    """Raises RequestError for values without a meaning.

    width: beams kept at each length, and answers returned. length_penalty: a beam's score is its log-probability over
    its number of tokens to this power; above 0 longer answers gain.
    """

    width: int
    max_tokens: int
    length_penalty: float = 1.0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "max_tokens"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} must be at least 1; {getattr(self, name)} was given.")


class Beam(NamedTuple):
    """An answer and its score; `logprob` is the natural log of the answer's probability."""

    token_ids: list[int]
    logprob: float
    score: float


class BeamSearch:
    """Searches alone: the runner computes nothing else meanwhile. Blocks come from `tables` and are free afterwards."""

    def __init__(
        self, tables: BlockTables, runner: ModelRunner, max_num_batched_tokens: int, eos_token_ids: Collection[int]
    ) -> None:
        self._tables = tables
        self._runner = runner
        self._max_num_batched_tokens = max_num_batched_tokens
        self._eos_token_ids = eos_token_ids

    def search(self, prompt_token_ids: SequenceOf[int], params: BeamParams) -> list[Beam]:
        """The best answers, best first. Raises RequestError if the free KV blocks do not hold so many beams."""
        self._check_room(len(prompt_token_ids), params)
        sampling = SamplingParams(max_tokens=params.max_tokens, ignore_eos=params.ignore_eos)
        beams = [Sequence("beam", prompt_token_ids, sampling, seed=0)]
        running, finished = [0.0], list[Beam]()
        began = self._tables.begin(beams[0], num_spare=0)
        assert began
        try:
            logits = self._prefill(beams[0])
            for length in range(1, params.max_tokens + 1):
                chosen = self._choose(logits, beams, running, finished, params)
                beams = self._replace(beams, [(parent, token_id) for parent, token_id, _ in chosen])
                running = [logprob for _, _, logprob in chosen]
                # Later scores can only be worse where the length does not count for them.
                hope = running[0] / length**params.length_penalty
                if len(finished) == params.width and hope <= finished[-1].score:
                    break
                if length < params.max_tokens:
                    logits = self._decode(beams)
            else:
                for beam, logprob in zip(beams, running, strict=True):
                    _keep(finished, beam.token_ids[beam.num_prompt_tokens :], logprob, params)
        finally:
            for beam in beams:
                self._tables.release(beam)
        return finished

    def _check_room(self, num_prompt_tokens: int, params: BeamParams) -> None:
        size, num_free = self._tables.block_size, self._tables.pool.num_free
        # Twice the width: children are made before their parents go.
        own = -(-params.max_tokens // size) + 1
        num_needed = -(-num_prompt_tokens // size) + 2 * params.width * own
        if num_needed > num_free:
            raise RequestError(f"{params.width} beams may need {num_needed} KV blocks; {num_free} are free.")

    def _choose(
        self,
        logits: torch.Tensor,
        beams: list[Sequence],
        running: list[float],
        finished: list[Beam],
        params: BeamParams,
    ) -> list[tuple[int, int, float]]:
        """The next beams as (parent, token, log-probability), best first; those that end go to `finished`."""
        logprobs = logits.float().log_softmax(-1) + torch.tensor(running).unsqueeze(1)
        vocab_size = logprobs.shape[1]
        # Twice the width: even if one ending of each beam is among them, enough are left to go on with.
        num_endings = 0 if params.ignore_eos else len(self._eos_token_ids)
        values, places = logprobs.flatten().topk(min(params.width * (1 + max(num_endings, 1)), logprobs.numel()))
        chosen: list[tuple[int, int, float]] = []
        for rank, (logprob, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            parent, token_id = divmod(place, vocab_size)
            if token_id in self._eos_token_ids and not params.ignore_eos:
                if rank < params.width:
                    beam = beams[parent]
                    _keep(finished, [*beam.token_ids[beam.num_prompt_tokens :], token_id], logprob, params)
            elif len(chosen) < params.width:
                chosen.append((parent, token_id, logprob))
        return chosen

    def _replace(self, beams: list[Sequence], chosen: list[tuple[int, int]]) -> list[Sequence]:
        children = []
        for parent_index, token_id in chosen:
            parent = beams[parent_index]
            child = Sequence(parent.request_id, parent.token_ids, parent.params, parent.seed)
            child.num_prompt_tokens = parent.num_prompt_tokens
            child.block_keys = list(parent.block_keys)
            self._tables.fork(parent, child)
            child.token_ids.append(token_id)
            children.append(child)
        for beam in beams:
            self._tables.release(beam)
        return children

    def _prefill(self, sequence: Sequence) -> torch.Tensor:
        while True:
            num_tokens = min(sequence.num_uncomputed_tokens, self._max_num_batched_tokens)
            chunk = Chunk(sequence, sequence.num_computed_tokens, num_tokens)
            logits = self._execute([chunk], num_decodes=0)
            if sequence.num_uncomputed_tokens == 0:
                return logits

    def _decode(self, beams: list[Sequence]) -> torch.Tensor:
        for beam in beams:
            grown = self._tables.grow(beam, beam.num_tokens)
            assert grown
        return self._execute([Chunk(beam, beam.num_computed_tokens, 1) for beam in beams], num_decodes=len(beams))

    def _execute(self, chunks: list[Chunk], num_decodes: int) -> torch.Tensor:
        logits = self._runner.execute(StepPlan(tuple(chunks), num_decodes, (), self._tables.take_copies()))
        for chunk in chunks:
            self._tables.commit(chunk.sequence, chunk.start + chunk.num_tokens)
        return logits


def _keep(finished: list[Beam], token_ids: list[int], logprob: float, params: BeamParams) -> None:
    """Modifies `finished`: at most `width` of them, best first."""
    finished.append(Beam(token_ids, logprob, logprob / len(token_ids) ** params.length_penalty))
    finished.sort(key=lambda beam: -beam.score)
    del finished[params.width :]
