"""The bodies of answers, for the OpenAPI document alone: formats.py writes them by hand, and the tests compare.

A field with a default may be missing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length", "abort"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(_Answer):
    """`type` is the openai client's exception, `code` the HTTP status, `param` the parameter that was wrong."""

    message: str
    type: str
    param: str | None
    code: int


class ErrorBody(_Answer):
    error: ErrorDetail


class PromptTokensDetails(_Answer):
    cached_tokens: int


class CompletionTokensDetails(_Answer):
    """How speculative drafts fared; missing where there were none."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(_Answer):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | None = None


class _Choice(_Answer):
    """`stop_reason` is the stop text or token that ended it. Token ids come with `return_token_ids`."""

    index: int
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class CompletionLogprobs(_Answer):
    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


class CompletionChoice(_Choice):
    text: str
    logprobs: CompletionLogprobs | None


class _Envelope(_Answer):
    id: str
    created: int
    model: str


class Completion(_Envelope):
    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(_Envelope):
    """An event of a streamed completion; the one that has the usage of all has no choices."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TokenLogprob(_Answer):
    token: str
    logprob: float
    bytes: list[int]


class ChosenLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(_Answer):
    content: list[ChosenLogprob]


class AssistantMessage(_Answer):
    role: Literal["assistant"]
    content: str


class ChatChoice(_Choice):
    message: AssistantMessage
    logprobs: ChatLogprobs | None


class ChatDelta(_Answer):
    role: Literal["assistant"] | None = None
    content: str


class ChatChunkChoice(_Choice):
    delta: ChatDelta
    logprobs: ChatLogprobs | None


class Chat(_Envelope):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatChunk(_Envelope):
    """An event of a streamed chat; the one that has the usage of all has no choices."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class Model(_Answer):
    """`max_model_len` is null while the model is being loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


class Models(_Answer):
    object: Literal["list"]
    data: list[Model]
