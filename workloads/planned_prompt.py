"""One question as planned, and the digest of many."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlannedPrompt:
    """One question. Exactly one of `prompt` and `messages`, which are (role, content) pairs, is set.

    `prompt_tokens` counts `prompt` with the special tokens that a server adds to it, or the contents of `messages`
    without the chat template, which is the server's; None without a tokenizer. `prefix_group` numbers the shared
    beginning, None where none is shared. `population` names whom a mixed workload has ask.

    A turn of a conversation holds the words of that turn alone: what was said before, the engine's own answers among
    it, is put in front when it is sent. Its `prompt_tokens` is then not known beforehand and None. It is sent
    `think_ns` after the answer to the turn before.
    """

    index: int
    prompt: str | None
    messages: tuple[tuple[str, str], ...] | None
    prompt_tokens: int | None
    max_tokens: int
    prefix_group: int | None = None
    conversation: int | None = None
    turn: int = 0
    think_ns: int = 0
    population: str | None = None


def prompts_digest(prompts: Sequence[PlannedPrompt]) -> str:
    """SHA-256 over everything that is asked, as hex."""
    digest = hashlib.sha256()
    for prompt in prompts:
        parts: tuple[object, ...] = (prompt.index, prompt.prompt, prompt.messages, prompt.max_tokens)
        if prompt.conversation is not None:
            parts += (prompt.conversation, prompt.turn, prompt.think_ns)
        digest.update(repr(parts).encode("utf-8", errors="surrogatepass") + b"\n")
    return digest.hexdigest()
