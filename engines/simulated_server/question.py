"""A request as the simulated engine reads it, and the JSON in which it is answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.engines.simulated_server.behaviour import Behaviour

WORD = " tick"
TOKEN_ID = 11
MAX_TOKENS = 10_000_000
ROUTES = {"/v1/completions": False, "/v1/chat/completions": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an answer depends on. `prompt_tokens` counts words: nothing here has a tokenizer."""

    request_id: str
    is_chat: bool = False
    model: str = ""
    max_tokens: int = 16
    prompt_tokens: int = 0
    stream: bool = False
    include_usage: bool = False
    with_token_ids: bool = False
    keep_alive: bool = True

    def frame(self, num_tokens: int, finish_reason: str | None, *, whole: bool = False) -> dict[str, Any]:
        """A chunk of `num_tokens` tokens, or with `whole` the answer in one piece."""
        text = WORD * num_tokens
        choice: dict[str, Any] = {"index": 0}
        if not self.is_chat:
            choice["text"] = text
        elif whole:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["delta"] = {"content": text}
        choice["finish_reason"] = finish_reason
        if self.with_token_ids:
            choice["token_ids"] = [TOKEN_ID] * num_tokens
        return self._object([choice], whole)

    def role_frame(self) -> dict[str, Any]:
        """The first chunk of a chat, which names the role and holds no token."""
        return self._object([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}], False)

    def usage_frame(self, num_tokens: int) -> dict[str, Any]:
        """The last chunk of a stream with `include_usage`."""
        return self._object([], False) | {"usage": self.usage(num_tokens)}

    def usage(self, num_tokens: int) -> dict[str, int]:
        total = self.prompt_tokens + num_tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": num_tokens, "total_tokens": total}

    def _object(self, choices: list[dict[str, Any]], whole: bool) -> dict[str, Any]:
        kind = ("chat.completion" if whole else "chat.completion.chunk") if self.is_chat else "text_completion"
        # Created at the epoch: the same request gets the same bytes at any time.
        return {"id": f"sim-{self.request_id}", "object": kind, "created": 0, "model": self.model, "choices": choices}


def read_question(
    path: str, headers: Mapping[str, str], body: bytes, keep_alive: bool, behaviour: Behaviour
) -> tuple[Question, Behaviour]:
    """The question in an HTTP request, and `behaviour` as its `x-simulate` header or `simulate` field changes it.

    Raises ValueError with a sentence for what cannot be answered.
    """
    try:
        asked = json.loads(body)
        override = json.loads(headers.get("x-simulate", "{}"))
    except (ValueError, RecursionError):
        raise ValueError("the body and the x-simulate header must be JSON") from None
    if not isinstance(asked, dict):
        raise ValueError("the body must be a JSON object")
    for options in (override, asked.get("simulate", {})):
        if not isinstance(options, dict):
            raise ValueError("x-simulate and simulate must be JSON objects")
        behaviour = behaviour.changed(options)
    max_tokens = asked.get("max_tokens", asked.get("max_completion_tokens", 16))
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or not 1 <= max_tokens <= MAX_TOKENS:
        raise ValueError(f"max_tokens must be between 1 and {MAX_TOKENS}; got {max_tokens!r}")
    stream_options = asked.get("stream_options")
    question = Question(
        request_id=headers.get("x-request-id", ""),
        is_chat=ROUTES[path],
        model=str(asked.get("model", ""))[:200],
        max_tokens=max_tokens,
        prompt_tokens=_num_words(asked.get("messages" if ROUTES[path] else "prompt")),
        stream=asked.get("stream") is True,
        include_usage=isinstance(stream_options, dict) and stream_options.get("include_usage") is True,
        with_token_ids=asked.get("return_token_ids") is True,
        keep_alive=keep_alive,
    )
    return question, behaviour


def _num_words(prompt: Any) -> int:
    if isinstance(prompt, str):
        return len(prompt.split())
    if isinstance(prompt, list):
        return sum(1 if isinstance(part, int) else _num_words(part) for part in prompt)
    return _num_words(prompt.get("content")) if isinstance(prompt, dict) else 0
