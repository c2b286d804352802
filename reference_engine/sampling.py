"""What a request asks of the sampler. The arithmetic is in sampler.py; this file needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from llmbench.reference_engine.errors import RequestError

# Below this the softmax is one-hot in float32 for any two logits that differ by 1e-3, so greedy is the same answer.
GREEDY_BELOW_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one request chooses its tokens and when it ends. Raises RequestError for values without a meaning.

    max_tokens: generated tokens, at least 1.
    temperature: 0 is greedy.
    top_k: only the k most probable tokens may be chosen; None for all.
    top_p: then only the smallest set of most probable tokens whose probabilities, renormalised after top_k, reach p.
    seed: same seed and prompt, same output, whatever else is in the batch; None draws one from the engine's seed.
    ignore_eos: the end-of-sequence tokens do not end the request (stop_token_ids still do).
    stop_token_ids: end the request; the token itself is the last of the output, as an end-of-sequence token is.
    min_tokens: no token that would end the request can be chosen before this many were generated.
    logprobs: report this many most probable tokens beside each chosen one, of the model's own distribution (before
        temperature, top_k and top_p); 0 reports the chosen one alone, None nothing.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1; {self.max_tokens} was given.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise RequestError(f"temperature must be a finite number of at least 0; {self.temperature} was given.")
        if self.top_k is not None and self.top_k < 1:
            raise RequestError(f"top_k must be at least 1, or be left out for no limit; {self.top_k} was given.")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p must lie in (0, 1]; {self.top_p} was given.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise RequestError(f"seed must fit 64 bits; {self.seed} was given.")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise RequestError(
                f"min_tokens must lie in [0, max_tokens = {self.max_tokens}]; {self.min_tokens} was given."
            )
        if self.logprobs is not None and self.logprobs < 0:
            raise RequestError(f"logprobs must be at least 0; {self.logprobs} was given.")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW_TEMPERATURE


class TokenLogprobs(NamedTuple):
    """Natural-log probability of a chosen token, and of the most probable ones, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
