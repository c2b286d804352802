"""What is asked: the sources prompts come from, as a workload names them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from llmbench.workloads.base import MAX_TOKENS, Flag, Frozen, Positive, Text, TokenCount, refuse
from llmbench.workloads.lengths import FixedLengths, Lengths, smallest
from llmbench.workloads.think_time import FixedThinking, ThinkTime
from llmbench.workloads.traces import TraceFields

Salt = Annotated[
    Literal["round", "none"],
    Field(
        description="`round` begins every prompt with a few random tokens that differ from round to round, so that no "
        "round measures the prefix cache that an earlier one filled; `none` repeats the same prompts. Default round."
    ),
]

PromptLengths = Annotated[
    Lengths, Field(description="Prompt lengths, in tokens of the model's tokenizer: a number, or a distribution.")
]
OutputLengths = Annotated[
    Lengths, Field(description="How many tokens each answer is asked to have: a number, or a distribution.")
]


class SharedPrefixSpec(Frozen):
    """The beginning that prompts have in common: a system prompt, say. It counts towards the prompt's length."""

    tokens: Annotated[int, Strict(), Field(ge=0, le=MAX_TOKENS)] = Field(
        default=0,
        description="Length of the common beginning, in tokens, the salt included; default 0, nothing shared.",
    )
    groups: Annotated[int, Strict(), Field(ge=1, le=100_000)] = Field(
        default=1,
        description="How many different beginnings there are, each for an equal share of requests; default 1.",
    )


class SyntheticPrompts(Frozen):
    """Random words with exactly the token counts asked for, checked by encoding each finished prompt."""

    kind: Literal["synthetic"] = "synthetic"
    prompt_tokens: PromptLengths = FixedLengths(value=256)
    output_tokens: OutputLengths = FixedLengths(value=64)
    shared_prefix: SharedPrefixSpec = Field(
        default=SharedPrefixSpec(), description="What prompts have in common at their beginning; default nothing."
    )
    salt: Salt = "round"

    @model_validator(mode="after")
    def _check_prefix(self) -> Self:
        shortest = smallest(self.prompt_tokens)
        if shortest is not None and self.shared_prefix.tokens >= shortest:
            refuse(
                "shared_prefix.tokens",
                f"given {self.shared_prefix.tokens}, allowed: below the shortest prompt, which is {shortest} tokens",
            )
        return self


class TextPrompts(Frozen):
    """Passages of a text file, each from a random place, cut to the length asked for.

    A few random words are added at the end where no cut gives the exact token count. Without a tokenizer at hand the
    lengths are counted in words, and the prompt's token count is unknown.
    """

    kind: Literal["text"] = "text"
    path: Text = Field(description="A UTF-8 text file; relative to the workload.")
    prompt_tokens: PromptLengths = FixedLengths(value=256)
    output_tokens: OutputLengths = FixedLengths(value=64)
    salt: Salt = "round"


class JsonlFields(Frozen):
    """What the fields of a JSONL row are called."""

    prompt: Text = Field(default="prompt", description="The field that holds the prompt's text; default prompt.")
    messages: Text = Field(
        default="messages",
        description="The field that holds a list of {role, content}, used where there is no prompt; default messages.",
    )
    max_tokens: Text = Field(
        default="max_tokens",
        description="The field that holds how many tokens to ask for, used where output_tokens is null; "
        "default max_tokens.",
    )


class JsonlPrompts(Frozen):
    """One prompt per line of a JSONL file. Rows are used again when there are more requests than rows."""

    kind: Literal["jsonl"] = "jsonl"
    path: Text = Field(description="A JSONL file; relative to the workload.")
    fields: JsonlFields = Field(default=JsonlFields(), description="What the fields of a row are called.")
    output_tokens: OutputLengths | None = Field(
        default=None, description="Answer lengths in place of each row's own; default null, each row's own."
    )
    shuffle: Flag = Field(default=True, description="Take rows in random order; false: in the file's. Default true.")
    salt: Salt = "round"


class ShareGptPrompts(Frozen):
    """First human turn of each ShareGPT conversation, with the length of the answer that it got.

    Conversations whose first human turn or answer is outside the limits are left out.
    """

    kind: Literal["sharegpt"] = "sharegpt"
    path: Text = Field(description="A ShareGPT JSON file; relative to the workload.")
    output_tokens: OutputLengths | None = Field(
        default=None, description="Answer lengths in place of the recorded ones; default null, the recorded ones."
    )
    min_tokens: TokenCount = Field(
        default=4, description="Leave out shorter prompts and answers, in tokens; default 4."
    )
    max_prompt_tokens: TokenCount = Field(
        default=1024, description="Leave out longer prompts, in tokens; default 1024."
    )
    max_total_tokens: TokenCount = Field(
        default=2048, description="Leave out conversations with more tokens in prompt and answer; default 2048."
    )
    shuffle: Flag = Field(default=True, description="Take rows in random order; false: in the file's. Default true.")
    salt: Salt = "round"

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.max_prompt_tokens < self.min_tokens:
            refuse(
                "max_prompt_tokens", f"given {self.max_prompt_tokens}, allowed: min_tokens or more, {self.min_tokens}"
            )
        if self.max_total_tokens < 2 * self.min_tokens:
            refuse("max_total_tokens", f"given {self.max_total_tokens}, allowed: twice min_tokens or more")
        return self


class TracePrompts(TraceFields):
    """Random words of the lengths that a trace recorded, request by request, and the beginnings that they shared.

    Mooncake's traces say which blocks of a prompt another began with too; the others share nothing.
    """

    kind: Literal["trace"] = "trace"
    max_prompt_tokens: TokenCount | None = Field(
        default=None, description="Longer prompts are cut to this, in tokens; default null, as recorded."
    )
    max_output_tokens: TokenCount | None = Field(
        default=None, description="Longer answers are cut to this, in tokens; default null, as recorded."
    )
    salt: Salt = "round"


class ConversationPrompts(Frozen):
    """Conversations: each turn is sent after the answer to the one before, behind all that was said, answers included.

    Arrivals start conversations: a rate counts conversations, and a closed loop has that many of them under way.
    `traffic.requests` counts turns; the last conversation ends early where they do not come out even.
    """

    kind: Literal["conversations"] = "conversations"
    turns: Annotated[Lengths, Field(description="How many questions each has: a number, or a distribution.")] = (
        FixedLengths(value=4)
    )
    prompt_tokens: Annotated[
        Lengths, Field(description="Length of each question without what was said before, in tokens.")
    ] = FixedLengths(value=64)
    output_tokens: OutputLengths = FixedLengths(value=64)
    think_s: Annotated[
        ThinkTime,
        Field(
            description="From an answer's end until the next question, in s: a number, or {kind: exponential, mean}."
        ),
    ] = FixedThinking(value=1.0)
    shared_prefix: SharedPrefixSpec = Field(
        default=SharedPrefixSpec(),
        description="What conversations have in common in front of the first question, on top of its length; "
        "default nothing.",
    )
    salt: Salt = "round"


class Population(Frozen):
    """One kind of user."""

    name: Annotated[str, Field(max_length=40, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="Names the population: letters, digits, dot, underscore and hyphen."
    )
    weight: Positive = Field(description="Its share of the requests, in any unit: 70 and 30, or 0.7 and 0.3.")
    prompts: Annotated[
        SyntheticPrompts | TextPrompts | JsonlPrompts | ShareGptPrompts | TracePrompts | ConversationPrompts,
        Field(discriminator="kind", description="What it asks."),
    ]


class MixedPrompts(Frozen):
    """Several populations at once. Shares of `traffic.requests` are exact to one request, the order is random."""

    kind: Literal["mixed"] = "mixed"
    populations: Annotated[tuple[Population, ...], Field(min_length=1)] = Field(description="Who asks, and how often.")

    @property
    def salt(self) -> Literal["round", "none"]:
        """Each population has its own; the order itself is the same in every round."""
        return "round"

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        seen: set[str] = set()
        for index, population in enumerate(self.populations):
            if population.name in seen:
                refuse(f"populations.{index}.name", f"a second population is called {population.name!r}")
            seen.add(population.name)
        return self


PromptsSpec = Annotated[
    SyntheticPrompts | TextPrompts | JsonlPrompts | ShareGptPrompts | TracePrompts | ConversationPrompts | MixedPrompts,
    Field(discriminator="kind"),
]
