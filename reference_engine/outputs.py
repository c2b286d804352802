"""What an engine tells its caller. Needs no torch, so that the server's process does without it."""

from __future__ import annotations

from typing import NamedTuple

from llmbench.reference_engine.beam_search import Beam
from llmbench.reference_engine.request_times import RequestTimes
from llmbench.reference_engine.sampling import TokenLogprobs


class StepOutput(NamedTuple):
    """What one step brought for one request.

    `finish_reason` is "stop", "length" or "abort" with the last token and None before; "abort" where the form that the
    answer was to have can be kept no longer. An end-of-sequence or stop token is
    delivered, as the last token. `num_cached_tokens` counts prompt tokens that were found in the cache instead of being
    computed. `logprobs` has one entry per new token if the request asked for them. `times` are as of this step.
    `num_draft_tokens` were verified in this step, `num_accepted_tokens` of them are among the new tokens. A beam search
    brings one output, at its end: `beams` are its answers, best first, and there are no new tokens beside them.
    `error` is one sentence for a request that gets no answer, or no more of one: `finish_reason` is "abort" then, and
    there are no tokens.
    """

    request_id: str
    new_token_ids: list[int]
    finish_reason: str | None
    num_cached_tokens: int
    logprobs: list[TokenLogprobs] | None
    times: RequestTimes
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    beams: list[Beam] | None = None
    error: str | None = None

    @classmethod
    def of_error(cls, request_id: str, error: str) -> StepOutput:
        return cls(request_id, [], "abort", 0, None, RequestTimes(0, 0, 0), error=error)


class EngineStats(NamedTuple):
    """Gauges (the first seven) as of now, counters since the engine was made.

    num_swap_blocks_used: of host memory, by preempted sequences.
    num_resident_blocks: of the KV cache, that may take memory; without compaction they all do.
    num_overtakings: requests that were admitted while one of a lower rank waited, as its user had been served more; see
    fairness.py.
    num_cache_queried_tokens: tokens of all requests that were looked up in the prefix cache; num_cache_hit_tokens of
    them were found. num_evicted_blocks lost their cached content, to somebody else's or to compaction.
    num_swapped_blocks were copied to host memory when their sequence was preempted, of num_swapped_requests; the other
    preempted ones are computed again. num_draft_tokens were verified, num_accepted_tokens of them became output.
    num_moved_blocks were moved by compaction.
    """

    num_running: int
    num_waiting: int
    num_blocks_used: int
    num_blocks: int
    block_size: int
    num_swap_blocks_used: int
    num_resident_blocks: int
    num_steps: int
    num_preemptions: int
    num_overtakings: int
    num_prompt_tokens: int
    num_generated_tokens: int
    num_computed_tokens: int
    num_finished: int
    num_aborted: int
    num_cache_queried_tokens: int
    num_cache_hit_tokens: int
    num_evicted_blocks: int
    num_swapped_blocks: int
    num_swapped_requests: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_moved_blocks: int
