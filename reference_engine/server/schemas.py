"""The bodies of requests, as pydantic reads them and openapi.py publishes them.

A parameter that is not here is refused by name, a number that is written as a text is no number. What depends on the
model (its vocabulary, its context) or on two parameters at once is checked in limits.py and sampling.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from llmbench.reference_engine.beam_search import MAX_LENGTH_PENALTY, BeamParams
from llmbench.reference_engine.limits import MAX_USER_CHARS
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.server.answer_forms import (
    STRICT,
    PlainFormat,
    ResponseFormat,
    Schema,
    StructuredOutputs,
    Texts,
    described,
    grammar_of,
)
from llmbench.reference_engine.server.errors import ApiError

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_CHOICES = 16
# Messages, parts of one, and tokens that a request names beside its prompt: far more than anybody has use for.
MAX_ITEMS = 16_384
# Larger ones no model could keep to, and Python refuses to write those of more than 4300 digits.
MAX_WHOLE = 2**31 - 1


def _whole(value: object) -> object:
    """JSON knows one kind of number: 1.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)


def _all_whole(value: object) -> object:
    # Prompts may be long, and nearly none has a float.
    return list(map(_whole, value)) if isinstance(value, list) and float in set(map(type, value)) else value


def _few(value: object) -> object:
    # Before its entries are looked at: that takes a while, and pydantic keeps an account of each that is wrong.
    if isinstance(value, (dict, list)) and len(value) > MAX_ITEMS:
        raise ValueError(f"must have at most {MAX_ITEMS} entries; {len(value)} were given")
    return value


FEW = BeforeValidator(_few)


def _few_lists(value: object) -> object:
    return _few(value) if isinstance(value, list) and value and isinstance(value[0], list) else value


def _few_names(value: object) -> object:
    """Of an object that has a few names, and another such object in it perhaps."""
    if isinstance(value, dict):
        _few(value)
        for inner in value.values():
            _few(inner)
    return value


Text = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0)]
# The first item that is wrong is the one that is told of: there may be a million.
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True), BeforeValidator(_all_whole)]
# A name of JSON's is a text.
NamedTokenId = Annotated[str, StringConstraints(pattern="^[0-9]{1,9}$")]
Prompt = Annotated[
    Text
    | TokenIds
    | Annotated[list[Text], Field(min_length=1, fail_fast=True)]
    | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)],
    described("a text, a list of token ids, or a list of either of them, and none of them empty"),
    BeforeValidator(_few_lists),
]
Penalty = Annotated[float, Field(ge=-2, le=2)]
MaxTokens = Annotated[int, Field(ge=1, le=MAX_WHOLE), WHOLE]
LogitBias = Annotated[
    dict[NamedTokenId, Annotated[float, Field(ge=-100, le=100)]],
    Field(json_schema_extra={"additionalProperties": False}),
    FEW,
]
StopTokenIds = Annotated[
    list[Annotated[int, Field(ge=0, le=MAX_WHOLE)]],
    Field(max_length=MAX_ITEMS, fail_fast=True),
    BeforeValidator(_all_whole),
    FEW,
]
Stops = Annotated[
    Text | Annotated[list[Text], Field(max_length=MAX_STOPS, fail_fast=True)],
    described(f"a text or a list of at most {MAX_STOPS}, and none of them empty"),
]
# Clients send these with the value that asks for nothing, which is honoured.
Never = Annotated[Literal[False], described("left out or false: it is not supported")]
NoText = Annotated[Literal[""] | None, described("left out or empty: it is not supported")]


# What chooses tokens by chance or bends their probabilities, which a beam search does not.
_NOT_FOR_BEAMS = (
    *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("logit_bias", "min_tokens", "logprobs", "top_logprobs", "response_format"),
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice"),
)
# What asks for nothing, beside the defaults.
_NEUTRAL_FOR_BEAMS: Mapping[str, Sequence[object]] = {
    "temperature": (0,),
    "top_k": (-1, 0),
    "logit_bias": ({},),
    "response_format": (PlainFormat(type="text"),),
}


def _tell_of_nulls(schema: dict[str, Any]) -> None:
    """Modifies the JSON schema: what may be left out may be null, known or not."""
    schema["additionalProperties"] = {"type": "null"}
    for name, field in schema["properties"].items():
        if name not in schema.get("required", ()) and {"type": "null"} not in field.get("anyOf", ()):
            told = {key: field.pop(key) for key in ("default", "title") if key in field}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **told}


class Body(BaseModel):
    """A null is a parameter left out: so OpenAI's interface has it, and clients write one for what they do not set."""

    model_config = STRICT | ConfigDict(json_schema_extra=_tell_of_nulls)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        given = {
            name: value
            for name, value in data.items()
            if name in fields and (value is not None or fields[name].is_required())
        }
        # Of the parameters that are not supported one is refused by name; there may be a hundred thousand.
        unknown = (name for name, value in data.items() if value is not None and name not in fields)
        for name in islice(unknown, 1):
            given[name] = data[name]
        return given


class StreamOptions(Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationBody(Body):
    """What both endpoints take. The defaults are vLLM's."""

    model: str
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=MAX_WHOLE), WHOLE] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    logit_bias: LogitBias | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64), WHOLE] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_WHOLE), WHOLE] = 0
    stop: Stops | None = None
    stop_token_ids: StopTokenIds | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    # Lower is sooner, as in vLLM.
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31), WHOLE] = 0
    # Whose request it is: with --fairness vtc users are served alike. Those without it are one user's.
    user: Annotated[str, Field(max_length=MAX_USER_CHARS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), WHOLE] = 1
    # The answers are the `n` most probable of `best_of` beams.
    use_beam_search: bool = False
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES), WHOLE] | None = None
    length_penalty: Annotated[float, Field(ge=-MAX_LENGTH_PENALTY, le=MAX_LENGTH_PENALTY)] = 1.0
    response_format: Annotated[ResponseFormat, BeforeValidator(_few_names)] | None = None
    structured_outputs: Annotated[StructuredOutputs, BeforeValidator(_few_names)] | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: Texts | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def num_seats(self) -> int:
        """What each prompt takes of the engine's room: its answers, or its beams."""
        return self.n if self.best_of is None else self.best_of

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

    def check_stream_options(self) -> None:
        """Raises ApiError 400 for options of a stream that is not asked for."""
        if self.stream_options is not None and not self.stream:
            message = "The parameter 'stream_options' has a meaning only with stream: true."
            raise ApiError(HTTPStatus.BAD_REQUEST, message, "stream_options")

    def check_best_of(self) -> None:
        """Raises ApiError 400 for what has a meaning only with beam search, or none with it."""
        width = self.n if self.best_of is None else self.best_of
        if width < self.n:
            raise ApiError(HTTPStatus.BAD_REQUEST, f"The parameter 'best_of' must be at least n = {self.n}.", "best_of")
        if not self.use_beam_search:
            for name, is_neutral in (("best_of", width == self.n), ("length_penalty", self.length_penalty == 1)):
                if not is_neutral:
                    message = f"The parameter {name!r} has a meaning only with use_beam_search: true."
                    raise ApiError(HTTPStatus.BAD_REQUEST, message, name)
            return
        for name in _NOT_FOR_BEAMS:
            default = type(self).model_fields[name].default if name in type(self).model_fields else None
            given = getattr(self, name, None)
            if given != default and given not in _NEUTRAL_FOR_BEAMS.get(name, ()):
                message = f"The parameter {name!r} has no meaning with use_beam_search: true; leave it out."
                raise ApiError(HTTPStatus.BAD_REQUEST, message, name)

    def beam_params(self, max_tokens: int) -> BeamParams:
        return BeamParams(
            width=self.n if self.best_of is None else self.best_of,
            max_tokens=max_tokens,
            length_penalty=self.length_penalty,
            ignore_eos=self.ignore_eos,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            stop=self.stops,
        )

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
            logit_bias={int(token_id): bias for token_id, bias in (self.logit_bias or {}).items()},
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
    max_tokens: MaxTokens | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = None
    add_special_tokens: bool = True
    echo: Never = False
    suffix: NoText = None

    def prompts(self) -> list[str | list[int]]:
        """One entry per generation."""
        match self.prompt:
            case str() | [int(), *_]:
                return [self.prompt]  # type: ignore[list-item]  # the pattern says which of the four it is
            case many:
                return list(many)  # type: ignore[arg-type]


class TextPart(Body):
    type: Literal["text"]
    text: str


Parts = Annotated[list[TextPart], Field(max_length=MAX_ITEMS, fail_fast=True), FEW]


class Message(Body):
    role: str
    content: Annotated[str | Parts, described(f"a text, or a list of at most {MAX_ITEMS} parts of type text")]
    name: str | None = None

    def for_template(self) -> dict[str, Any]:
        """Parts of a text on lines of their own, as vLLM has them: engines that are compared compute one prompt."""
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": content, **named}


class ChatBody(GenerationBody):
    """POST /v1/chat/completions. Without a limit the answer may fill the context."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True), FEW]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = None
    # What the model's template may read besides, such as Qwen3's enable_thinking.
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
