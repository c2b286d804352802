"""The most probable continuations of a prompt, found by beam search in the running batch. Needs no torch.

Beams are sequences that the scheduler runs beside all others. After each step a group of them is replaced by its best
children, forks that read their parents' blocks and copy the last, half-filled one when they write to it. So beams that
agree on all but their last tokens share all but their last blocks. Source: arXiv:2309.06180 §4.4.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.sequence import Sequence

MAX_LENGTH_PENALTY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamParams:
    """Raises RequestError for values without a meaning.

    width: beams kept at each length, and answers returned. length_penalty: a beam's score is its log-probability over
    its number of tokens to this power, in [-10, 10]; above 0 longer answers gain. stop_token_ids: end a beam, and are
    its last token. stop: texts that end a beam with the token that completes one, which is its last.
    """

    width: int
    max_tokens: int
    length_penalty: float = 1.0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("width", "max_tokens"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} must be at least 1; {getattr(self, name)} was given.")
        if not abs(self.length_penalty) <= MAX_LENGTH_PENALTY:  # larger powers of a length are no numbers any more
            raise RequestError(
                f"length_penalty must lie in [-{MAX_LENGTH_PENALTY}, {MAX_LENGTH_PENALTY}]; "
                f"{self.length_penalty} was given."
            )

    @property
    def named_token_ids(self) -> tuple[int, ...]:
        """Every token id that the request names beside its prompt."""
        return self.stop_token_ids


class Beam(NamedTuple):
    """An answer and its score; `logprob` is the natural log of the answer's probability."""

    token_ids: list[int]
    logprob: float
    score: float
    finish_reason: Literal["stop", "length"]


class BeamGroup:
    """The beams of one request: `members` are the sequences that run for it now, the most probable first.

    They run, wait and are preempted together, so that a step computes all of them or none. A preempted group begins
    again with its prompt: it finds the same beams, and shares its blocks again, which beams computed one by one do not.

    `has_stop` says of an answer's tokens whether its text has one of the request's stop texts; None if there are none.
    """

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: SequenceOf[int],
        params: BeamParams,
        eos_token_ids: Collection[int],
        priority: int,
        has_stop: Callable[[SequenceOf[int]], bool] | None = None,
        user: str | None = None,
    ) -> None:
        self.params = params
        self.request_id = request_id
        self.priority = priority
        self.user = user
        self._prompt_token_ids = list(prompt_token_ids)
        self._end_token_ids = frozenset(params.stop_token_ids)
        if not params.ignore_eos:
            self._end_token_ids |= frozenset(eos_token_ids)
        self._has_stop = has_stop
        self.members: list[Sequence] = []
        # Of each answer, generated already when the search last began again.
        self.num_tokens_before = 0
        self.restart()

    def restart(self) -> Sequence:
        """Begin with the prompt alone, which has the seats of all the beams that it will become."""
        # Even if every ending of each beam is among the best, enough are left to go on with.
        num_candidates = self.params.width * (1 + max(len(self._end_token_ids), 1))
        # A request may name hundreds of endings: of one beam's tokens fewer are needed than of all beams' together.
        num_each = min(num_candidates, 2 * self.params.width + len(self._end_token_ids))
        sampling = SamplingParams(max_tokens=self.params.max_tokens, temperature=0, logprobs=num_each)
        root = Sequence(self.request_id, self._prompt_token_ids, sampling, 0, self.priority, self.user)
        root.num_seats = self.params.width
        root.beams = self
        if self.members:
            self.num_tokens_before = max(self.num_tokens_before, self.members[0].num_output_tokens)
        self.members = [root]
        self._logprobs = [0.0]
        self._finished: list[Beam] = []
        self._num_candidates = num_candidates
        return root

    def advance(self, best: SequenceOf[SequenceOf[tuple[int, float]]]) -> list[tuple[Sequence, Sequence]]:
        """One token further: (parent, child) of each beam to go on with, or none when the search has ended.

        `best` has, for each member, its most probable next tokens with their log-probabilities.
        """
        candidates = sorted(
            (
                (before + logprob, parent, token_id)
                for parent, (before, tokens) in enumerate(zip(self._logprobs, best, strict=True))
                for token_id, logprob in tokens
            ),
            key=lambda candidate: -candidate[0],
        )[: self._num_candidates]
        chosen: list[tuple[float, int, int]] = []
        for rank, (logprob, parent, token_id) in enumerate(candidates):
            if len(chosen) == self.params.width:
                break
            if self._ends(self.members[parent], token_id):
                if rank < self.params.width:
                    self._keep([*self._output(self.members[parent]), token_id], logprob, "stop")
            else:
                chosen.append((logprob, parent, token_id))
        length = self.members[0].num_output_tokens + 1
        if not chosen or self._is_decided(chosen[0][0], length):
            return []
        self._logprobs = [logprob for logprob, _, _ in chosen]
        if length == self.params.max_tokens:
            for logprob, parent, token_id in chosen:
                self._keep([*self._output(self.members[parent]), token_id], logprob, "length")
            return []
        families = [
            (self.members[parent], self._child(self.members[parent], token_id)) for _, parent, token_id in chosen
        ]
        self.members = [child for _, child in families]
        # Where most of the best ones end with a stop text: the seats stay taken for what the others branch into.
        self.members[0].num_seats = self.params.width - len(families) + 1
        return families

    def answers(self) -> list[Beam]:
        """Of a search that has ended: at most `width` of them, best first."""
        return self._finished

    def _ends(self, member: Sequence, token_id: int) -> bool:
        if token_id in self._end_token_ids:
            return True
        return self._has_stop is not None and self._has_stop([*self._output(member), token_id])

    def _is_decided(self, logprob: float, length: int) -> bool:
        # Certain where the penalty is at most 0: later scores can only be worse. Above 0 a longer answer might still
        # win, and the search ends all the same, as transformers' does.
        hope = logprob / length**self.params.length_penalty
        return len(self._finished) == self.params.width and hope <= self._finished[-1].score

    def _child(self, parent: Sequence, token_id: int) -> Sequence:
        child = Sequence(self.request_id, [*parent.token_ids, token_id], parent.params, 0, self.priority, self.user)
        child.num_prompt_tokens = parent.num_prompt_tokens
        child.beams = self
        return child

    def _keep(self, token_ids: list[int], logprob: float, reason: Literal["stop", "length"]) -> None:
        score = logprob / len(token_ids) ** self.params.length_penalty
        self._finished.append(Beam(token_ids, logprob, score, reason))
        self._finished.sort(key=lambda beam: -beam.score)
        del self._finished[self.params.width :]

    @staticmethod
    def _output(member: Sequence) -> list[int]:
        return member.token_ids[member.num_prompt_tokens :]


def check_room(
    params: BeamParams, num_prompt_tokens: int, *, block_size: int, num_blocks: int, max_num_seqs: int
) -> None:
    """Raises RequestError for a search that an engine of so many blocks and seats could not run even alone."""
    if params.width > max_num_seqs:
        raise RequestError(
            f"{params.width} beams take a seat each; the engine computes {max_num_seqs} sequences at once."
        )
    # The prompt's blocks are shared, but for the last one where it is not full.
    own = -(-params.max_tokens // block_size) + 1
    num_needed = -(-num_prompt_tokens // block_size) + params.width * own
    if num_needed > num_blocks:
        raise RequestError(f"{params.width} beams may need {num_needed} KV blocks; there are {num_blocks}.")
