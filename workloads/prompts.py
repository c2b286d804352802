"""The prompts of one round: what every request asks, and how long an answer it asks for.

Lengths, contents and order come from `seeds.prompts` and are the same in every round; with `salt: round` each prompt
begins with a few tokens of its own (requests that share a prefix share them) that change from round to round. The salt
is part of the prompt's length, so lengths do not change with it. Warm-up prompts are always salted apart from measured
ones, as they would otherwise fill the prefix cache with them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.exact_text import exact_text
from llmbench.workloads.lengths import sample
from llmbench.workloads.prompt_rows import Row, read_jsonl, read_sharegpt
from llmbench.workloads.prompt_specs import JsonlPrompts, ShareGptPrompts, SyntheticPrompts, TextPrompts
from llmbench.workloads.seeds import stream
from llmbench.workloads.spec import WorkloadSpec
from llmbench.workloads.text_passages import Passages
from llmbench.workloads.tokenizer import FileTokenizer, TextTokenizer, load_tokenizer

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "FileTokenizer",
    "PlannedPrompt",
    "TextTokenizer",
    "build_prompts",
    "build_warmup_prompts",
    "load_tokenizer",
    "prompts_digest",
]

# Enough that two rounds never draw the same one, and short beside any prompt.
SALT_TOKENS = 8

Purpose = Literal["measured", "warmup"]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class PlannedPrompt:
    """One question. Exactly one of `prompt` and `messages`, which are (role, content) pairs, is set.

    `prompt_tokens` counts `prompt` with the special tokens that a server adds to it, or the contents of `messages`
    without the chat template, which is the server's; None without a tokenizer. `prefix_group` numbers the shared
    beginning, None where none is shared.
    """

    index: int
    prompt: str | None
    messages: tuple[tuple[str, str], ...] | None
    prompt_tokens: int | None
    max_tokens: int
    prefix_group: int | None = None


def build_prompts(
    spec: WorkloadSpec, tokenizer: TextTokenizer | None, round_index: int = 0
) -> tuple[PlannedPrompt, ...]:
    """The measured prompts of one round, in the order of sending. The same arguments give the same bytes anywhere.

    Synthetic prompts need a tokenizer. Raises WorkloadError for a file that cannot be used or a length that cannot be.
    """
    return _Builder(spec, tokenizer, round_index, "measured", spec.traffic.requests).build()


def build_warmup_prompts(
    spec: WorkloadSpec, tokenizer: TextTokenizer | None, round_index: int = 0
) -> tuple[PlannedPrompt, ...]:
    """The prompts sent before a round: like the measured ones in kind and length, and none of them the same."""
    return _Builder(spec, tokenizer, round_index, "warmup", spec.traffic.warmup_requests).build()


def prompts_digest(prompts: Sequence[PlannedPrompt]) -> str:
    """SHA-256 over everything that is asked, as hex."""
    digest = hashlib.sha256()
    for prompt in prompts:
        parts = (prompt.index, prompt.prompt, prompt.messages, prompt.max_tokens)
        digest.update(repr(parts).encode("utf-8", errors="surrogatepass") + b"\n")
    return digest.hexdigest()


class _Builder:
    def __init__(
        self, spec: WorkloadSpec, tokenizer: TextTokenizer | None, round_index: int, purpose: Purpose, count: int
    ) -> None:
        self.spec, self.tokenizer, self.round_index = spec, tokenizer, round_index
        self.purpose, self.count = purpose, count
        self.is_chat = spec.request.api == "chat"
        self.is_salted = spec.prompts.salt == "round" or purpose == "warmup"
        self.writer = None if tokenizer is None else exact_text(tokenizer)
        self.num_special = 0
        if tokenizer is not None and not self.is_chat:
            self.num_special = len(tokenizer.encode("a", add_special_tokens=True)) - len(tokenizer.encode("a"))

    def stream(self, *labels: str | int) -> np.random.Generator:
        return stream(self.spec.seeds.prompts, self.purpose, *labels)

    def salt_stream(self, *labels: str | int) -> np.random.Generator:
        salted_round = self.round_index if self.spec.prompts.salt == "round" else 0
        return self.stream("salt", salted_round, *labels)

    def build(self) -> tuple[PlannedPrompt, ...]:
        if self.count == 0:
            return ()
        match self.spec.prompts:
            case SyntheticPrompts() as prompts:
                return self.synthetic(prompts)
            case TextPrompts() as prompts:
                return self.text(prompts)
            case prompts:
                return self.rows(prompts)

    def planned(self, index: int, text: str, max_tokens: int, group: int | None = None) -> PlannedPrompt:
        if self.is_chat:
            return self.planned_chat(index, (("user", text),), max_tokens, group)
        tokens = None if self.tokenizer is None else len(self.tokenizer.encode(text, add_special_tokens=True))
        return PlannedPrompt(index, text, None, tokens, max_tokens, group)

    def planned_chat(
        self, index: int, messages: tuple[tuple[str, str], ...], max_tokens: int, group: int | None = None
    ) -> PlannedPrompt:
        tokens = None if self.writer is None else sum(self.writer.count(content) for _, content in messages)
        return PlannedPrompt(index, None, messages, tokens, max_tokens, group)

    def exact(self, index: int, text: str, asked: int, max_tokens: int, group: int | None = None) -> PlannedPrompt:
        planned = self.planned(index, text, max_tokens, group)
        if planned.prompt_tokens != asked:
            raise WorkloadError(
                f"prompt {index} has {planned.prompt_tokens} tokens and should have {asked}: this tokenizer adds "
                "a varying number of special tokens"
            )
        return planned

    def room_for_text(self, asked: int) -> int:
        if asked <= self.num_special:
            raise WorkloadError(
                f"a prompt of {asked} tokens was asked for, allowed: at least {self.num_special + 1}, "
                f"as the tokenizer adds {self.num_special} special tokens to each"
            )
        return asked - self.num_special

    def synthetic(self, prompts: SyntheticPrompts) -> tuple[PlannedPrompt, ...]:
        writer = self.writer
        if writer is None:
            raise WorkloadError("synthetic prompts have exact token counts and need a tokenizer: set `tokenizer`")
        lengths = sample(prompts.prompt_tokens, self.count, self.stream("prompt lengths"))
        outputs = sample(prompts.output_tokens, self.count, self.stream("output lengths"))
        num_shared = prompts.shared_prefix.tokens
        # Balanced, in random order: each group gets its share even where requests are few.
        order = self.stream("groups").permutation(self.count) % prompts.shared_prefix.groups
        heads: dict[int, str] = {}
        planned = []
        for index, (asked, max_tokens) in enumerate(zip(lengths, outputs, strict=True)):
            num_text = self.room_for_text(asked)
            group = int(order[index]) if num_shared else None
            if group is None:
                head = self.salt(min(SALT_TOKENS, num_text), "request", index)
            elif num_shared >= num_text:
                raise WorkloadError(
                    f"field 'prompts.shared_prefix.tokens': given {num_shared}, and prompt {index} has room for "
                    f"{num_text} tokens of text; allowed: below the shortest prompt"
                )
            else:
                if group not in heads:
                    salt = self.salt(min(SALT_TOKENS, num_shared), "group", group)
                    heads[group] = writer.extend(salt, num_shared, self.stream("prefix", group))
                head = heads[group]
            text = writer.extend(head, num_text, self.stream("prompt", index))
            planned.append(self.exact(index, text, asked, max_tokens, group))
        return tuple(planned)

    def salt(self, num_tokens: int, *labels: str | int) -> str:
        if not self.is_salted:
            return ""
        assert self.writer is not None
        return self.writer.extend("", num_tokens, self.salt_stream(*labels))

    def salted(self, index: int, text: str) -> str:
        """`text` behind a salt: one of SALT_TOKENS tokens, or without a tokenizer of as many letters."""
        if not self.is_salted:
            return text
        if self.writer is not None:
            return f"{self.salt(SALT_TOKENS, 'request', index)} {text}"
        letters = self.salt_stream("request", index).integers(0, 26, size=SALT_TOKENS)
        return f"{''.join(chr(ord('a') + int(letter)) for letter in letters)} {text}"

    def text(self, prompts: TextPrompts) -> tuple[PlannedPrompt, ...]:
        lengths = sample(prompts.prompt_tokens, self.count, self.stream("prompt lengths"))
        outputs = sample(prompts.output_tokens, self.count, self.stream("output lengths"))
        passages = Passages(prompts.path)
        planned = []
        for index, (asked, max_tokens) in enumerate(zip(lengths, outputs, strict=True)):
            generator = self.stream("prompt", index)
            if self.writer is None:
                planned.append(self.planned(index, self.salted(index, passages.words(asked, generator)), max_tokens))
                continue
            num_text = self.room_for_text(asked)
            head = self.salt(min(SALT_TOKENS, num_text), "request", index)
            text = self.writer.extend(
                passages.at_most(head, num_text, self.writer.count, generator), num_text, generator
            )
            planned.append(self.exact(index, text, asked, max_tokens))
        return tuple(planned)

    def rows(self, prompts: JsonlPrompts | ShareGptPrompts) -> tuple[PlannedPrompt, ...]:
        outputs: Sequence[int] | None = None
        if prompts.output_tokens is not None:
            outputs = sample(prompts.output_tokens, self.count, self.stream("output lengths"))
        rows = self.chosen_rows(prompts)
        return tuple(
            self.planned_row(index, rows[index % len(rows)], None if outputs is None else outputs[index])
            for index in range(self.count)
        )

    def chosen_rows(self, prompts: JsonlPrompts | ShareGptPrompts) -> list[Row]:
        """The rows to ask, in order, as many as there are requests or as the file has."""
        if isinstance(prompts, JsonlPrompts):
            rows = read_jsonl(prompts, allow_messages=self.is_chat)
            return list(itertools.islice(self.ordered(rows, prompts.shuffle), self.count))
        exchanges = read_sharegpt(prompts.path)
        count = None if self.writer is None else self.writer.count
        candidates = (exchange.row(prompts, count) for exchange in self.ordered(exchanges, prompts.shuffle))
        kept = list(itertools.islice((row for row in candidates if row is not None), self.count))
        if not kept:
            raise WorkloadError(
                f"{prompts.path}: none of {len(exchanges)} conversations is within prompts.min_tokens, "
                "prompts.max_prompt_tokens and prompts.max_total_tokens"
            )
        return kept

    def ordered(self, items: Sequence[Item], shuffle: bool) -> Iterator[Item]:
        order: Sequence[int] = range(len(items))
        if shuffle:
            order = stream(self.spec.seeds.prompts, "row order").permutation(len(items)).tolist()
        # Warm-up starts from the other end, with rows that are measured late or not at all.
        yield from (items[item] for item in (reversed(order) if self.purpose == "warmup" else order))

    def planned_row(self, index: int, row: Row, max_tokens: int | None) -> PlannedPrompt:
        if max_tokens is None:
            max_tokens = row.max_tokens
        if max_tokens is None:
            raise WorkloadError(f"{row.where}: nothing says how long the answer should be; set prompts.output_tokens")
        if row.messages is None:
            assert row.prompt is not None
            return self.planned(index, self.salted(index, row.prompt), max_tokens)
        (role, content), *rest = row.messages
        return self.planned_chat(index, ((role, self.salted(index, content)), *rest), max_tokens)
