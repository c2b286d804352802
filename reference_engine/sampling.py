"""What a request asks of the sampler. The arithmetic is in sampler.py; this file needs no torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
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
    min_p: of what top_k and top_p leave, only tokens at least this many times as probable as the most probable one.
    repetition_penalty: divides the logits of tokens in prompt or output if positive, multiplies them if negative; 1 is
        none. Source: CTRL, arXiv:1909.05858 §4.1.
    presence_penalty, frequency_penalty: subtracted from the logits of tokens in the output, once, and once per
        occurrence. As OpenAI defines them.
    logit_bias: token id to what is added to its logit, in [-100, 100].
    seed: same seed and prompt, same output, whatever else is in the batch; None draws one from the engine's seed.
    ignore_eos: the end-of-sequence tokens do not end the request (stop_token_ids still do).
    stop_token_ids: end the request; the token itself is the last of the output, as an end-of-sequence token is. Kept
        as a set.
    min_tokens: no token that would end the request can be chosen before this many were generated.
    grammar: the form that the answer must have, see guidance.py; None for any. An answer ends where its form ends.
    logprobs: report this many most probable tokens beside each chosen one, of the model's own distribution (before
        all of the above); 0 reports the chosen one alone, None nothing.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: Collection[int] = ()
    min_tokens: int = 0
    grammar: str | None = None
    logprobs: int | None = None
    # Whether the most probable token is all that is asked for, so that a sampler need not look at the rest.
    is_plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1; {self.max_tokens} was given.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise RequestError(f"temperature must be a finite number of at least 0; {self.temperature} was given.")
        if self.top_k is not None and self.top_k < 1:
            raise RequestError(f"top_k must be at least 1, or be left out for no limit; {self.top_k} was given.")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p must lie in (0, 1]; {self.top_p} was given.")
        if not 0 <= self.min_p <= 1:
            raise RequestError(f"min_p must lie in [0, 1]; {self.min_p} was given.")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise RequestError(
                f"repetition_penalty must be a finite number above 0; {self.repetition_penalty} was given."
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise RequestError(f"{name} must lie in [-2, 2]; {getattr(self, name)} was given.")
        for token_id, bias in self.logit_bias.items():
            if not -100 <= bias <= 100:
                raise RequestError(f"logit_bias must lie in [-100, 100]; {bias} was given for token {token_id}.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise RequestError(f"seed must fit 64 bits; {self.seed} was given.")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise RequestError(
                f"min_tokens must lie in [0, max_tokens = {self.max_tokens}]; {self.min_tokens} was given."
            )
        if self.grammar is not None and self.min_tokens > 0:
            raise RequestError("min_tokens cannot be kept where a given form ends the answer; leave one of them out.")
        if self.logprobs is not None and self.logprobs < 0:
            raise RequestError(f"logprobs must be at least 0; {self.logprobs} was given.")
        # Looked into at every token.
        object.__setattr__(self, "stop_token_ids", frozenset(self.stop_token_ids))
        changes = self.has_penalties or self.logit_bias or self.min_tokens or self.grammar is not None
        object.__setattr__(self, "is_plain", self.is_greedy and not changes and self.logprobs is None)

    @property
    def named_token_ids(self) -> tuple[int, ...]:
        """Every token id that the request names beside its prompt."""
        return (*self.stop_token_ids, *self.logit_bias)

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW_TEMPERATURE

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


class TokenLogprobs(NamedTuple):
    """Natural-log probability of a chosen token, and of the most probable ones, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
