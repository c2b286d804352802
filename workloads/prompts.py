"""The prompts of one round: what every request asks, and how long an answer it asks for.

Lengths, contents and order come from `seeds.prompts` and are the same in every round; with `salt: round` each prompt
begins with a few tokens of its own (requests that share a prefix share them) that change from round to round. The salt
is part of the prompt's length, so lengths do not change with it. Warm-up prompts are always salted apart from measured
ones, as they would otherwise fill the prefix cache with them.
"""

from __future__ import annotations

from llmbench.workloads.planned_prompt import PlannedPrompt, prompts_digest
from llmbench.workloads.prompt_writer import SALT_TOKENS, PromptWriter, Purpose
from llmbench.workloads.sources import SOURCES
from llmbench.workloads.spec import WorkloadSpec
from llmbench.workloads.tokenizer import FileTokenizer, TextTokenizer, find_tokenizer, load_tokenizer

__all__ = [
    "SALT_TOKENS",
    "FileTokenizer",
    "PlannedPrompt",
    "TextTokenizer",
    "build_prompts",
    "build_warmup_prompts",
    "find_tokenizer",
    "load_tokenizer",
    "prompts_digest",
]


def build_prompts(
    spec: WorkloadSpec, tokenizer: TextTokenizer | None, round_index: int = 0
) -> tuple[PlannedPrompt, ...]:
    """The measured prompts of one round, in the order of sending. The same arguments give the same bytes anywhere.

    Synthetic prompts need a tokenizer. Raises WorkloadError for a file that cannot be used or a length that cannot be.
    """
    return _build(spec, tokenizer, round_index, "measured", spec.traffic.requests)


def build_warmup_prompts(
    spec: WorkloadSpec, tokenizer: TextTokenizer | None, round_index: int = 0
) -> tuple[PlannedPrompt, ...]:
    """The prompts sent before a round: like the measured ones in kind and length, and none of them the same."""
    return _build(spec, tokenizer, round_index, "warmup", spec.traffic.warmup_requests)


def _build(
    spec: WorkloadSpec, tokenizer: TextTokenizer | None, round_index: int, purpose: Purpose, count: int
) -> tuple[PlannedPrompt, ...]:
    if count == 0:
        return ()
    writer = PromptWriter(
        tokenizer=tokenizer,
        seed=spec.seeds.prompts,
        round_index=round_index,
        purpose=purpose,
        count=count,
        is_chat=spec.request.api == "chat",
        salt_kind=spec.prompts.salt,
    )
    return tuple(SOURCES[spec.prompts.kind](spec.prompts, writer))
