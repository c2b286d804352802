"""What every source of prompts needs: random streams, salts, exact lengths, and the API's shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.exact_text import ExactText, exact_text
from llmbench.workloads.planned_prompt import PlannedPrompt
from llmbench.workloads.prompt_specs import Salt
from llmbench.workloads.seeds import stream
from llmbench.workloads.tokenizer import TextTokenizer

if TYPE_CHECKING:
    import numpy as np

# Enough that two rounds never draw the same one, and short beside any prompt.
SALT_TOKENS = 8

Purpose = Literal["measured", "warmup"]


@dataclass(frozen=True)
class PromptWriter:
    """Writes `count` prompts of one purpose and round; `scope` sets its random streams apart from another's."""

    tokenizer: TextTokenizer | None
    seed: int
    round_index: int
    purpose: Purpose
    count: int
    is_chat: bool
    salt_kind: Salt
    scope: tuple[str | int, ...] = ()

    def scoped(self, *scope: str | int, count: int, salt_kind: Salt) -> PromptWriter:
        """A writer like this one with random streams of its own."""
        return replace(self, scope=(*self.scope, *scope), count=count, salt_kind=salt_kind)

    @property
    def is_salted(self) -> bool:
        # A warm-up would otherwise fill the prefix cache with the measured prompts.
        return self.salt_kind == "round" or self.purpose == "warmup"

    @cached_property
    def text(self) -> ExactText | None:
        """The writer of exact lengths, None without a tokenizer."""
        return None if self.tokenizer is None else exact_text(self.tokenizer)

    @property
    def exact_text(self) -> ExactText:
        """The writer of exact lengths. Raises WorkloadError without a tokenizer."""
        if self.text is None:
            raise WorkloadError("synthetic prompts have exact token counts and need a tokenizer: set `tokenizer`")
        return self.text

    @cached_property
    def num_special(self) -> int:
        """How many tokens a server adds to each prompt, such as BOS; a chat template is not counted."""
        if self.tokenizer is None or self.is_chat:
            return 0
        return len(self.tokenizer.encode("a", add_special_tokens=True)) - len(self.tokenizer.encode("a"))

    def stream(self, *labels: str | int) -> np.random.Generator:
        return stream(self.seed, self.purpose, *self.scope, *labels)

    def shared_stream(self, *labels: str | int) -> np.random.Generator:
        """A stream that warm-up and measured prompts have in common."""
        return stream(self.seed, *self.scope, *labels)

    def _salt_stream(self, *labels: str | int) -> np.random.Generator:
        salted_round = self.round_index if self.salt_kind == "round" else 0
        return self.stream("salt", salted_round, *labels)

    def salt(self, num_tokens: int, *labels: str | int) -> str:
        """A beginning of at most SALT_TOKENS of `num_tokens` tokens; empty where nothing is salted."""
        if not self.is_salted:
            return ""
        return self.exact_text.extend("", min(SALT_TOKENS, num_tokens), self._salt_stream(*labels))

    def salted(self, index: int, text: str) -> str:
        """`text` behind a salt: one of SALT_TOKENS tokens, or without a tokenizer of as many letters."""
        if not self.is_salted:
            return text
        if self.text is not None:
            return f"{self.salt(SALT_TOKENS, 'request', index)} {text}"
        letters = self._salt_stream("request", index).integers(0, 26, size=SALT_TOKENS)
        return f"{''.join(chr(ord('a') + int(letter)) for letter in letters)} {text}"

    def room_for_text(self, asked: int) -> int:
        """How many of `asked` tokens are text. Raises WorkloadError when the special tokens leave none."""
        if asked <= self.num_special:
            raise WorkloadError(
                f"a prompt of {asked} tokens was asked for, allowed: at least {self.num_special + 1}, "
                f"as the tokenizer adds {self.num_special} special tokens to each"
            )
        return asked - self.num_special

    def planned(self, index: int, text: str, max_tokens: int, group: int | None = None) -> PlannedPrompt:
        """The question `text` in the API's shape, counted."""
        if self.is_chat:
            return self.planned_chat(index, (("user", text),), max_tokens, group)
        tokens = None if self.tokenizer is None else len(self.tokenizer.encode(text, add_special_tokens=True))
        return PlannedPrompt(index, text, None, tokens, max_tokens, group)

    def planned_chat(
        self, index: int, messages: tuple[tuple[str, str], ...], max_tokens: int, group: int | None = None
    ) -> PlannedPrompt:
        tokens = None if self.text is None else sum(self.text.count(content) for _, content in messages)
        return PlannedPrompt(index, None, messages, tokens, max_tokens, group)

    def exact(self, index: int, text: str, asked: int, max_tokens: int, group: int | None = None) -> PlannedPrompt:
        """The question `text`, checked to count what was asked."""
        planned = self.planned(index, text, max_tokens, group)
        if planned.prompt_tokens != asked:
            raise WorkloadError(
                f"prompt {index} has {planned.prompt_tokens} tokens and should have {asked}: this tokenizer adds "
                "a varying number of special tokens"
            )
        return planned
