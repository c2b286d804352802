"""Chunks and whole answers of the OpenAI protocol understood, of completions and of chat."""

from __future__ import annotations

from typing import Any

from llmbench.engines.answer import Answer, count, token_ids, whole_text
from llmbench.engines.token_counts import Delta
from llmbench.engines.wire import FailureKind

# Finish reasons by which vLLM and SGLang say that they gave a request up.
_GIVEN_UP = frozenset({"abort", "error"})
_REASONING = ("reasoning_content", "reasoning")
_BESIDE_TEXT = frozenset({*_REASONING, "refusal", "tool_calls", "function_call"})


class OpenAIAnswer(Answer):
    """A stream of chunk objects up to [DONE], or without it up to a finish reason; or one completion object."""

    def __init__(self, ends_with_done: bool = True) -> None:
        super().__init__()
        self._ends_with_done = ends_with_done

    def missing_end(self) -> str | None:
        if self._ends_with_done:
            return super().missing_end()
        return None if self.finish_reason is not None else "a finish_reason"

    def take(self, body: dict[str, Any], chunk: int) -> None:
        total = self._take_usage(body.get("usage"))
        choices = body.get("choices")
        choices = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        for choice in choices:
            self.has_answer = True
            self.deltas.append(self._delta(choice, chunk, total))
        if not choices and total is not None:
            self.deltas.append(Delta(chunk, generated=False, total_so_far=total))

    def _take_usage(self, usage: Any) -> int | None:
        if not isinstance(usage, dict):
            return None
        prompt_tokens, output_tokens = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
        self.prompt_tokens = self.prompt_tokens if prompt_tokens is None else prompt_tokens
        self.output_tokens = self.output_tokens if output_tokens is None else output_tokens
        return output_tokens

    def _delta(self, choice: dict[str, Any], chunk: int, total: int | None) -> Delta:
        reason = choice.get("finish_reason")
        finishes = self.finish(reason.get("type") if isinstance(reason, dict) else reason)
        if finishes and self.finish_reason in _GIVEN_UP:
            self.fail(FailureKind.SERVER_ERROR, f"The server gave the request up (finish_reason {self.finish_reason}).")
        if self.prompt_tokens is None:
            self.prompt_tokens = _length(choice.get("prompt_token_ids"))
        # A stream has `delta`, a single answer `message`, completions neither: there the choice holds the text itself.
        part = choice.get("delta", choice.get("message"))
        if not isinstance(part, dict):
            part = choice
        text = _text(part)
        ids = token_ids(choice.get("token_ids"))
        if ids is None:
            # LMDeploy calls them so, and puts them beside the content in a chat.
            ids = token_ids(choice.get("gen_tokens", part.get("gen_tokens")))
        is_role = "role" in part and not text and not ids and not finishes
        return Delta(
            chunk,
            text,
            generated=not is_role,
            finishes=finishes,
            token_ids=ids,
            num_logprobs=_num_logprobs(choice.get("logprobs")),
            total_so_far=total,
        )


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, list) else None


def _text(part: dict[str, Any]) -> str:
    """Everything generated in `part`, in the order it was generated: reasoning, content, tool calls."""
    if _BESIDE_TEXT.isdisjoint(part):
        plain = part.get("content", part.get("text"))
        return whole_text(plain) if isinstance(plain, str) else ""
    pieces = [next((found for key in _REASONING if isinstance(found := part.get(key), str) and found), "")]
    pieces += [found for key in ("content", "text", "refusal") if isinstance(found := part.get(key), str)]
    calls = part.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    for function in (*functions, part.get("function_call")):
        if isinstance(function, dict):
            pieces += [found for key in ("name", "arguments") if isinstance(found := function.get(key), str)]
    return whole_text("".join(pieces))


def _num_logprobs(logprobs: Any) -> int | None:
    if not isinstance(logprobs, dict):
        return None
    # Chat lists its tokens under `content`, completions under `tokens`.
    return next((len(found) for key in ("content", "tokens") if isinstance(found := logprobs.get(key), list)), None)
