"""The bodies of requests, as pydantic reads them. A parameter that is not here is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.server.answer_forms import ResponseFormat, Schema, StructuredOutputs, Texts, grammar_of

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_CHOICES = 16


def _only(neutral: object) -> AfterValidator:
    def check(value: object) -> object:
        if value is not None and value != neutral:
            raise ValueError(f"not supported; it can only be left out or {neutral}")
        return value

    return AfterValidator(check)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _described(expected: str) -> WrapValidator:
    """One sentence for a union, where pydantic would list what every member of it lacks."""

    def check(value: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(f"must be {expected}") from None

    return WrapValidator(check)


Stop = Annotated[str, Field(min_length=1)]
Prompt = Annotated[
    str | list[int] | list[str] | list[list[int]],
    _described("a text, a list of token ids, or a list of either of them"),
]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationBody(BaseModel):
    """What both endpoints take. The defaults are vLLM's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    # JSON has no integer keys; pydantic reads the token ids out of them.
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    min_tokens: int = 0
    stop: Annotated[list[Stop], Field(max_length=MAX_STOPS), BeforeValidator(_as_list)] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    # Lower is sooner, as in vLLM.
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    # Says who asks; changes nothing.
    user: str | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: Texts | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.include_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def has_form(self) -> bool:
        guided = (self.guided_json, self.guided_regex, self.guided_choice)
        return any(form is not None for form in (self.response_format, self.structured_outputs, *guided))

    def grammar(self) -> str | None:
        """The form that the answer must have. May take a while for a large schema. Raises ApiError."""
        return grammar_of(
            self.response_format,
            self.structured_outputs,
            guided_json=self.guided_json,
            guided_regex=self.guided_regex,
            guided_choice=self.guided_choice,
        )

    def sampling_params(self, max_tokens: int, logprobs: int | None, grammar: str | None) -> list[SamplingParams]:
        """One for each of the `n` answers to a prompt. Raises RequestError for a value out of range."""
        first = SamplingParams(
            max_tokens=max_tokens,
            temperature=self.temperature,
            # vLLM's -1 and llama.cpp's 0 mean no limit.
            top_k=None if self.top_k in (0, -1) else self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=self.logit_bias or {},
            seed=self.seed,
            ignore_eos=self.ignore_eos,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            min_tokens=self.min_tokens,
            grammar=grammar,
            logprobs=logprobs,
        )
        if self.seed is None:
            return [first] * self.n
        # The first answer is the one that a request without `n` gets.
        return [first, *(replace(first, seed=(self.seed + index) % 2**64) for index in range(1, self.n))]


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Prompt
    max_tokens: int | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    add_special_tokens: bool = True
    # Clients send these with the value that asks for nothing, which is honoured; any other is refused.
    best_of: Annotated[int | None, _only(1)] = None
    echo: Annotated[bool, _only(False)] = False
    suffix: Annotated[str | None, _only("")] = None

    def prompts(self) -> list[str | list[int]]:
        """One entry per generation. Raises RequestError if there is none."""
        if not self.prompt:
            raise RequestError("The prompt is empty; at least one token is needed.")
        match self.prompt:
            case str() | [int(), *_]:
                return [self.prompt]  # type: ignore[list-item]  # the pattern says which of the four it is
            case many:
                return list(many)  # type: ignore[arg-type]


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str
    content: Annotated[str | list[TextPart], _described("a text, or a list of parts of type text")]
    name: str | None = None

    def for_template(self) -> dict[str, Any]:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": content, **named}


class ChatBody(GenerationBody):
    """POST /v1/chat/completions. Without a limit the answer may fill the context."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
