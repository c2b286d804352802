"""Generated text as OpenAI's JSON. Built by hand where a token passes: `json.dumps` is called on its text alone."""

from __future__ import annotations

import codecs
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from llmbench.reference_engine.sampling import TokenLogprobs
from llmbench.reference_engine.server.generation import Delta
from llmbench.reference_engine.token_bytes import NO_CHARACTER
from llmbench.reference_engine.tokenizer import Tokenizer

DONE = b"[DONE]"

_decoder = codecs.getincrementaldecoder("utf-8")


class Usage:
    """Token counts over all choices of one HTTP request, so many for each prompt, and the time since this was made.

    A prompt counts once, and what the cache had of it is what the first of its choices to be computed found there: the
    others find all of it.
    """

    def __init__(self, prompt_lengths: Sequence[int], num_each: int) -> None:
        self.num_prompt_tokens = sum(prompt_lengths)
        self._begun_ns = time.perf_counter_ns()
        self._num_each = num_each
        self._num_output_tokens = [0] * (len(prompt_lengths) * num_each)
        self._num_cached_tokens: dict[int, int] = {}  # by the number of the prompt
        self._num_draft_tokens = 0
        self._num_accepted_tokens = 0
        self._first_ns: int | None = None

    def note(self, index: int, delta: Delta) -> None:
        if self._first_ns is None:
            self._first_ns = time.perf_counter_ns()
        self._num_output_tokens[index] = delta.num_output_tokens
        prompt = index // self._num_each
        self._num_cached_tokens[prompt] = min(
            delta.num_cached_tokens, self._num_cached_tokens.get(prompt, delta.num_cached_tokens)
        )
        self._num_draft_tokens += delta.num_draft_tokens
        self._num_accepted_tokens += delta.num_accepted_tokens

    def facts(self) -> dict[str, object]:
        """For the log, once the last token is there."""
        now_ns = time.perf_counter_ns()
        first_ns = now_ns if self._first_ns is None else self._first_ns
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": sum(self._num_output_tokens),
            "cached_tokens": sum(self._num_cached_tokens.values()),
            "choices": len(self._num_output_tokens),
            "first_token_ms": round((first_ns - self._begun_ns) / 1e6, 1),
            "duration_ms": round((now_ns - self._begun_ns) / 1e6, 1),
        }

    def json(self) -> str:
        num_output_tokens = sum(self._num_output_tokens)
        return (
            f'{{"prompt_tokens":{self.num_prompt_tokens},"total_tokens":{self.num_prompt_tokens + num_output_tokens},'
            f'"completion_tokens":{num_output_tokens},'
            f'"prompt_tokens_details":{{"cached_tokens":{sum(self._num_cached_tokens.values())}}}{self._speculation_json()}}}'
        )

    def _speculation_json(self) -> str:
        """How the drafts fared, under the names that OpenAI has for predicted outputs; nothing if there were none."""
        if self._num_draft_tokens == 0:
            return ""
        num_rejected = self._num_draft_tokens - self._num_accepted_tokens
        return (
            f',"completion_tokens_details":{{"accepted_prediction_tokens":{self._num_accepted_tokens},'
            f'"rejected_prediction_tokens":{num_rejected}}}'
        )


class AnswerFormat(ABC):
    """The JSON around the text of one HTTP request's answer; a subclass per endpoint fills in the choice."""

    id_prefix: str
    object_name: str
    chunk_object_name: str

    def __init__(self, request_id: str, model: str, tokenizer: Tokenizer, with_token_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._with_token_ids = with_token_ids
        # Wall time labels an answer for its reader; nothing is measured with it.
        head = f'"created":{_unix_time()},"model":{json.dumps(model)},"choices":['
        answer_id = json.dumps(self.id_prefix + request_id)
        self._head = f'{{"id":{answer_id},"object":"{self.object_name}",{head}'
        self._chunk_head = (
            f'{{"id":{json.dumps(self.id_prefix + request_id)},"object":"{self.chunk_object_name}",{head}'
        )

    def opening(self, index: int) -> bytes | None:
        """The event that a choice begins with, before any token; None for completions."""
        return None

    def chunk(self, index: int, delta: Delta, usage: str | None, prompt_token_ids: list[int] | None) -> bytes:
        """One event of a stream. `prompt_token_ids` come with the first of a choice if they were asked for."""
        choice = self._chunk_choice(index, delta)
        if delta.finish_reason is not None:
            choice += f'"finish_reason":"{delta.finish_reason}","stop_reason":{json.dumps(delta.stop_reason)}'
        else:
            choice += '"finish_reason":null'
        if self._with_token_ids:
            choice += f',"token_ids":{_ids(delta.token_ids)},"prompt_token_ids":{_ids(prompt_token_ids)}'
        tail = "}]}" if usage is None else f'}}],"usage":{usage}}}'
        return (self._chunk_head + choice + tail).encode()

    def usage_chunk(self, usage: str) -> bytes:
        return f'{self._chunk_head}],"usage":{usage}}}'.encode()

    def whole(self, choices: Sequence[str], usage: str) -> bytes:
        return f'{self._head}{",".join(choices)}],"usage":{usage}}}'.encode()

    def whole_choice(self, index: int, deltas: Sequence[Delta], prompt_token_ids: list[int]) -> str:
        """One choice of an answer that is not streamed, of all its deltas."""
        last = deltas[-1]
        choice = self._whole_choice(index, deltas)
        choice += f'"finish_reason":"{last.finish_reason}","stop_reason":{json.dumps(last.stop_reason)}'
        if self._with_token_ids:
            token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
            choice += f',"token_ids":{_ids(token_ids)},"prompt_token_ids":{_ids(prompt_token_ids)}'
        return choice + "}"

    @abstractmethod
    def _chunk_choice(self, index: int, delta: Delta) -> str: ...

    @abstractmethod
    def _whole_choice(self, index: int, deltas: Sequence[Delta]) -> str: ...


class CompletionFormat(AnswerFormat):
    """/v1/completions."""

    id_prefix = "cmpl-"
    object_name = chunk_object_name = "text_completion"

    def __init__(
        self, request_id: str, model: str, tokenizer: Tokenizer, with_token_ids: bool, num_choices: int
    ) -> None:
        super().__init__(request_id, model, tokenizer, with_token_ids)
        # Where the next token begins in the text of each choice, and the characters that are not complete there.
        self._offsets = [0] * num_choices
        self._characters = [_decoder("replace") for _ in range(num_choices)]

    def _chunk_choice(self, index: int, delta: Delta) -> str:
        logprobs = "null" if delta.logprobs is None else self._logprobs(index, delta.logprobs)
        return f'{{"index":{index},"text":{json.dumps(delta.text)},"logprobs":{logprobs},'

    def _whole_choice(self, index: int, deltas: Sequence[Delta]) -> str:
        text = json.dumps("".join(delta.text for delta in deltas))
        entries = [entry for delta in deltas for entry in delta.logprobs or ()]
        logprobs = self._logprobs(index, entries) if deltas[-1].logprobs is not None else "null"
        return f'{{"index":{index},"text":{text},"logprobs":{logprobs},'

    def _logprobs(self, index: int, entries: Sequence[TokenLogprobs]) -> str:
        tops = [{self._name(token_id): _finite(logprob) for token_id, logprob in _best(entry)} for entry in entries]
        tokens = [self._name(entry.token_id) for entry in entries]
        offsets = []
        for entry in entries:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(self._characters[index].decode(self._tokenizer.token_bytes(entry.token_id)))
        return json.dumps(
            {
                "text_offset": offsets,
                "token_logprobs": [_finite(entry.logprob) for entry in entries],
                "tokens": tokens,
                "top_logprobs": tops,
            }
        )

    def _name(self, token_id: int) -> str:
        """The token's text; or its bytes where they are no text, as OpenAI has it: names that differ for each token."""
        text = self._tokenizer.token_text(token_id)
        if NO_CHARACTER not in text:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self._tokenizer.token_bytes(token_id))


class ChatFormat(AnswerFormat):
    """/v1/chat/completions."""

    id_prefix = "chatcmpl-"
    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"

    def opening(self, index: int) -> bytes | None:
        delta = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        return f'{self._chunk_head}{{"index":{index},{delta}}}]}}'.encode()

    def _chunk_choice(self, index: int, delta: Delta) -> str:
        logprobs = "null" if delta.logprobs is None else self._logprobs(delta.logprobs)
        return f'{{"index":{index},"delta":{{"content":{json.dumps(delta.text)}}},"logprobs":{logprobs},'

    def _whole_choice(self, index: int, deltas: Sequence[Delta]) -> str:
        text = json.dumps("".join(delta.text for delta in deltas))
        entries = [entry for delta in deltas for entry in delta.logprobs or ()]
        logprobs = self._logprobs(entries) if deltas[-1].logprobs is not None else "null"
        return f'{{"index":{index},"message":{{"role":"assistant","content":{text}}},"logprobs":{logprobs},'

    def _logprobs(self, entries: Sequence[TokenLogprobs]) -> str:
        content = [
            {
                **self._token(entry.token_id, entry.logprob),
                "top_logprobs": [self._token(token_id, logprob) for token_id, logprob in entry.top],
            }
            for entry in entries
        ]
        return json.dumps({"content": content})

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text, spelled = self._tokenizer.token_text(token_id), self._tokenizer.token_bytes(token_id)
        return {"token": text, "logprob": _finite(logprob), "bytes": list(spelled)}


def _best(entry: TokenLogprobs) -> list[tuple[int, float]]:
    # OpenAI's completions list the chosen token too where it is not among the best.
    chosen = (entry.token_id, entry.logprob)
    return [*entry.top, *([chosen] if entry.token_id not in dict(entry.top) else [])]


def _finite(logprob: float) -> float:
    # JSON has no -Infinity; vLLM writes the same.
    return max(logprob, -9999.0)


def _ids(token_ids: list[int] | None) -> str:
    return "null" if token_ids is None else json.dumps(token_ids, separators=(",", ":"))


def _unix_time() -> int:
    return time.time_ns() // 10**9
