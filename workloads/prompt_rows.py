"""Prompts that were written before: rows of a JSONL file, conversations of a ShareGPT file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmbench.workloads.base import MAX_TOKENS
from llmbench.workloads.errors import WorkloadError, reason_of, shorten
from llmbench.workloads.prompt_specs import JsonlPrompts, ShareGptPrompts

CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Row:
    """One question of a file. Exactly one of `prompt` and `messages`, (role, content) pairs, is set."""

    where: str
    prompt: str | None
    messages: tuple[tuple[str, str], ...] | None
    max_tokens: int | None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path}: the byte at offset {error.start} is not UTF-8") from error
    except (OSError, ValueError) as error:
        raise WorkloadError(f"{path}: the file of prompts cannot be read: {reason_of(error)}") from error


def read_jsonl(spec: JsonlPrompts, *, allow_messages: bool) -> list[Row]:
    """The rows of a JSONL file, in its order; blank lines are passed over. Raises WorkloadError with the line."""
    # Not splitlines(): JSON may hold U+2028 and its like as they are.
    lines = enumerate(_read(spec.path).split("\n"), start=1)
    rows = [_jsonl_row(spec, f"{spec.path}:{number}", line, allow_messages) for number, line in lines if line.strip()]
    if not rows:
        raise WorkloadError(f"{spec.path}: the file holds no rows")
    return rows


def _jsonl_row(spec: JsonlPrompts, where: str, line: str, allow_messages: bool) -> Row:
    data = _json(line, where)
    if not isinstance(data, dict):
        raise WorkloadError(f"{where}: given {shorten(data)}, allowed: a JSON object")
    names = spec.fields
    prompt, messages = data.get(names.prompt), data.get(names.messages)
    max_tokens = data.get(names.max_tokens)
    if max_tokens is not None and (type(max_tokens) is not int or not 1 <= max_tokens <= MAX_TOKENS):
        raise WorkloadError(f"{where}: {names.max_tokens}: given {shorten(max_tokens)}, allowed: a whole number from 1")
    if isinstance(prompt, str) and prompt and _is_text(prompt):
        return Row(where, prompt, None, max_tokens)
    if prompt is not None:
        raise WorkloadError(f"{where}: {names.prompt}: given {shorten(prompt)}, allowed: text that is not empty")
    if messages is None:
        fields = ", ".join(map(repr, data)) or "none"
        raise WorkloadError(
            f"{where}: the row has neither {names.prompt!r} nor {names.messages!r}, its fields are: {fields}; "
            "name the right ones in prompts.fields"
        )
    if not allow_messages:
        raise WorkloadError(f"{where}: the row holds messages, and request.api is completions; set it to chat")
    return Row(where, None, _messages(messages, f"{where}: {names.messages}"), max_tokens)


def _is_text(value: str) -> bool:
    """False for lone surrogates, which JSON can hold and UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _messages(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for message in value if isinstance(value, list) else []:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not (isinstance(role, str) and isinstance(content, str) and _is_text(role) and _is_text(content)):
            raise WorkloadError(f"{where}: given {shorten(message)}, allowed: {{role: text, content: text}}")
        pairs.append((role, content))
    if not pairs:
        raise WorkloadError(f"{where}: given {shorten(value)}, allowed: a list of messages that is not empty")
    return tuple(pairs)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.colno}" if error.lineno == 1 else f"{where}:{error.lineno}:{error.colno}"
        raise WorkloadError(f"{place}: not valid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise WorkloadError(f"{where}: not JSON that can be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Exchange:
    """The first question of a conversation and the answer that it got."""

    where: str
    question: str
    answer: str

    def row(self, limits: ShareGptPrompts, count: CountTokens | None) -> Row | None:
        """The exchange as a row; None when it is outside the limits.

        `count` counts the tokens of a text; without it nothing is outside, and the row has no `max_tokens`.
        """
        if count is None:
            return Row(self.where, self.question, None, None)
        num_prompt, num_answer = count(self.question), count(self.answer)
        is_too_short = min(num_prompt, num_answer) < limits.min_tokens
        is_too_long = num_prompt > limits.max_prompt_tokens or num_prompt + num_answer > limits.max_total_tokens
        return None if is_too_short or is_too_long else Row(self.where, self.question, None, num_answer)


def read_sharegpt(path: str) -> tuple[Exchange, ...]:
    """Every conversation that has a question and an answer, in the file's order. Raises WorkloadError."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        raise WorkloadError(f"{path}: the file of prompts cannot be read: {reason_of(error)}") from error
    return _read_sharegpt(path, status.st_mtime_ns, status.st_size)


# A real file has hundreds of megabytes and is asked for twice in each round.
@lru_cache(maxsize=2)
def _read_sharegpt(path: str, mtime_ns: int, num_bytes: int) -> tuple[Exchange, ...]:
    data = _json(_read(path), path)
    if not isinstance(data, list):
        raise WorkloadError(f"{path}: given {shorten(data)}, allowed: a JSON list of conversations")
    pairs = ((number, _first_exchange(entry)) for number, entry in enumerate(data))
    found = tuple(Exchange(f"{path}: conversation {number}", *pair) for number, pair in pairs if all(pair))
    if not found:
        raise WorkloadError(f"{path}: none of {len(data)} conversations has a human turn with an answer")
    return found


def _first_exchange(entry: Any) -> tuple[str, str]:
    """The first human turn and the first answer behind it; empty where there is none."""
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    question = answer = ""
    for turn in turns if isinstance(turns, list) else []:
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(text, str) or not _is_text(text):
            continue
        if not question and speaker in ("human", "user"):
            question = text
        elif question and speaker in ("gpt", "assistant", "chatgpt"):
            answer = text
            break
    return question, answer
