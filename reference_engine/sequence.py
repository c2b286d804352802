"""One request on its way through the engine."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Literal

from llmbench.reference_engine.request_times import RequestStamps
from llmbench.reference_engine.sampling import SamplingParams

if TYPE_CHECKING:
    from llmbench.reference_engine.beam_search import BeamGroup
    from llmbench.reference_engine.guides import Guide
    from llmbench.reference_engine.logit_adjustments import Changes

FinishReason = Literal["stop", "length", "abort"]


class Sequence:
    """A prompt, what was generated after it, and how much of both is in the KV cache.

    `token_ids` is prompt and output. The first `num_computed_tokens` of them have their keys and values in the blocks
    of `block_table`: position p lives in block `block_table[p // block_size]` at offset `p % block_size`. The scheduler
    owns both fields. `seed` is the request's own or one drawn for it; with the number of output tokens it determines
    every random choice, so a preempted sequence needs no saved generator state.

    A lower `priority` is served first; `rank` is the place in the queue that the scheduler made of it. `user` is whose
    request it is, None if it does not say. `block_keys` are
    the names of the full blocks, see cache/prefix_cache.py; `num_cached_tokens` of the prompt were found in the cache,
    None before the sequence was admitted. `draft_token_ids` are guesses at the next tokens, at most `max_draft_tokens`,
    of which as many as `draft_limit` are worth trying; see speculative/. `guide` knows which tokens may follow, where
    the answer has a form to keep. A beam of a search has its group in `beams`; the prompt that a group begins with
    holds as many of the engine's seats as it will have beams. `changes` are logit_adjustments.py's, made once.
    """

    __slots__ = (
        "beams",
        "block_keys",
        "block_table",
        "changes",
        "draft_limit",
        "draft_token_ids",
        "finish_reason",
        "guide",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_prompt_tokens",
        "num_seats",
        "params",
        "priority",
        "rank",
        "request_id",
        "seed",
        "stamps",
        "token_ids",
        "user",
    )

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: SequenceOf[int],
        params: SamplingParams,
        seed: int,
        priority: int = 0,
        user: str | None = None,
    ) -> None:
        self.request_id = request_id
        self.token_ids = list(prompt_token_ids)
        self.num_prompt_tokens = len(self.token_ids)
        self.params = params
        self.seed = seed
        self.priority = priority
        self.user = user
        self.rank = 0
        self.stamps = RequestStamps()
        self.num_computed_tokens = 0
        self.num_cached_tokens: int | None = None
        self.block_table: list[int] = []
        self.block_keys: list[bytes] = []
        self.draft_limit = 0
        self.draft_token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.guide: Guide | None = None
        self.changes: Changes | None = None
        self.num_seats = 1
        self.beams: BeamGroup | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def max_num_tokens(self) -> int:
        """Prompt and the longest output."""
        return self.num_prompt_tokens + self.params.max_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        """1 while decoding: the token chosen last is the input of the next step."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def max_draft_tokens(self) -> int:
        """One less than the tokens that may still come: a step brings one more than the drafts it accepts."""
        return min(self.draft_limit, self.params.max_tokens - self.num_output_tokens - 1)

    def append(self, token_id: int, eos_token_ids: Collection[int]) -> None:
        """Add a generated token and set `finish_reason` if it is the last.

        "abort" if nobody knows how the answer's form goes on: the token is no part of an answer then.
        """
        self.token_ids.append(token_id)
        is_complete = False
        if self.guide is not None:
            self.guide.advance(token_id)
            if self.guide.failure is not None:
                self.finish_reason = "abort"
                return
            is_complete = self.guide.is_complete
        is_end = token_id in eos_token_ids and not self.params.ignore_eos
        if is_end or is_complete or token_id in self.params.stop_token_ids:
            self.finish_reason = "stop"
        elif self.num_output_tokens >= self.params.max_tokens:
            self.finish_reason = "length"
