"""Answers of the OpenAI protocol understood: streams of chunks and single bodies, of completions and of chat."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmbench.engines.adapter import CountTokens
from llmbench.engines.server_message import clean, error_in, header, parse_json, status_failure
from llmbench.engines.sse import SseEvent, SseParser
from llmbench.engines.token_counts import Delta, attribute
from llmbench.engines.wire import DecodedAnswer, Failure, FailureKind, Timeline

MAX_COUNT = 2**31 - 1
# Finish reasons by which vLLM and SGLang say that they gave a request up.
_GIVEN_UP = frozenset({"abort", "error"})
_REASONING = ("reasoning_content", "reasoning")


@dataclass(slots=True)
class Answer:
    """What the events so far have said. `failure` is the first thing found wrong."""

    deltas: list[Delta] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    failure: Failure | None = None
    num_events: int = 0
    has_choices: bool = False
    is_done: bool = False

    def fail(self, kind: FailureKind, message: str) -> None:
        """Keep the first failure: what follows it is most often its consequence."""
        if self.failure is None:
            self.failure = Failure(kind, message)

    def take(self, body: dict[str, Any], chunk: int) -> None:
        """Add one chunk object, or one whole answer."""
        error = error_in(body)
        if error is not None:
            self.fail(FailureKind.SERVER_ERROR, f"The server reported an error under HTTP 200: {error}")
            return
        total = self._take_usage(body.get("usage"))
        choices = body.get("choices")
        choices = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        for choice in choices:
            self.has_choices = True
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
        reason = reason.get("type") if isinstance(reason, dict) else reason
        reason = clean(reason) if isinstance(reason, str) else ""
        if reason:
            self.finish_reason = reason
            if reason in _GIVEN_UP:
                self.fail(FailureKind.SERVER_ERROR, f"The server gave the request up (finish_reason {reason}).")
        if self.prompt_tokens is None:
            self.prompt_tokens = _length(choice.get("prompt_token_ids"))
        # A stream has `delta`, a single answer `message`, completions neither: there the choice holds the text itself.
        part = next((found for key in ("delta", "message") if isinstance(found := choice.get(key), dict)), choice)
        text = _text(part)
        num_token_ids = _length(choice.get("token_ids"))
        is_role = "role" in part and not text and not num_token_ids and not reason
        return Delta(
            chunk,
            text,
            generated=not is_role,
            finishes=bool(reason),
            num_token_ids=num_token_ids,
            num_logprobs=_num_logprobs(choice.get("logprobs")),
            total_so_far=total,
        )


def decode_answer(timeline: Timeline, count_tokens: CountTokens | None, *, streamed: bool) -> DecodedAnswer:
    """The answer in `timeline`, which was asked for as a stream or in one piece. Never raises."""
    answer = Answer()
    answer.failure = status_failure(timeline)
    if answer.failure is None:
        content_type = (header(timeline, "content-type") or "").lower()
        is_stream = "event-stream" in content_type or (streamed and "json" not in content_type)
        (_read_stream if is_stream else _read_body)(answer, timeline)
        if is_stream != streamed and answer.has_choices:
            asked, came = ("a stream", "one piece") if streamed else ("one piece", "a stream")
            answer.fail(FailureKind.MALFORMED, f"The answer was asked for as {asked} and came as {came}.")
    # A usage report without any answer counts nothing that was seen.
    deltas, total = (answer.deltas, answer.output_tokens) if answer.has_choices else ([], None)
    events, output_tokens, source = attribute(deltas, len(timeline.chunk_ns), total, count_tokens, streamed=streamed)
    return DecodedAnswer(
        events=events,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=output_tokens,
        token_source=source,
        finish_reason=answer.finish_reason,
        failure=_graver(timeline.failure, answer.failure),
    )


def _graver(seen: Failure | None, said: Failure | None) -> Failure | None:
    # A server that reports an error and hangs up has explained itself; the cut alone would hide the reason.
    if seen is not None and seen.kind is FailureKind.TRUNCATED and said is not None:
        return said if said.kind is not FailureKind.TRUNCATED else seen
    return seen or said


def _read_stream(answer: Answer, timeline: Timeline) -> None:
    parser = SseParser()
    for chunk, data in enumerate(timeline.chunk_bytes):
        for event in parser.feed(data):
            _take_event(answer, event, chunk)
    num_complete = answer.num_events
    for event in parser.finish():
        # An event without its blank line counts if it is whole; half of one is what a cut leaves, and no garbage.
        if _is_whole(event):
            _take_event(answer, event, len(timeline.chunk_bytes) - 1)
    if answer.failure is None and not answer.is_done:
        answer.fail(FailureKind.TRUNCATED, _how_it_ended(answer, timeline, num_complete))
    elif not answer.has_choices:
        answer.fail(FailureKind.MALFORMED, "The server ended the stream with [DONE] before any answer.")


def _how_it_ended(answer: Answer, timeline: Timeline, num_complete: int) -> str:
    if num_complete:
        reason = f" after finish_reason {answer.finish_reason}" if answer.finish_reason else ""
        return f"The stream ended without its end marker [DONE], {answer.num_events} events in{reason}."
    num_bytes = sum(map(len, timeline.chunk_bytes))
    return f"The server answered HTTP {timeline.status} and ended the stream without one event ({num_bytes} bytes)."


def _take_event(answer: Answer, event: SseEvent, chunk: int) -> None:
    answer.num_events += 1
    data = event.data.strip()
    if data == b"[DONE]":
        answer.is_done = True
        return
    try:
        body = parse_json(data)
    except ValueError:
        body = None
    if event.name == b"error":
        said = error_in(body) or clean(data[:2000].decode(errors="replace")) or "no message"
        answer.fail(FailureKind.SERVER_ERROR, f"The server reported an error under HTTP 200: {said}")
    elif isinstance(body, dict):
        answer.take(body, chunk)
    else:
        quoted = clean(data[:2000].decode(errors="replace"))
        answer.fail(FailureKind.MALFORMED, f"Event {answer.num_events} of the stream is no JSON object: {quoted}")


def _is_whole(event: SseEvent) -> bool:
    if event.data.strip() == b"[DONE]":
        return True
    try:
        return isinstance(parse_json(event.data), dict)
    except ValueError:
        return False


def _read_body(answer: Answer, timeline: Timeline) -> None:
    data = b"".join(timeline.chunk_bytes)
    if not data:
        answer.fail(FailureKind.TRUNCATED, f"The server answered HTTP {timeline.status} with an empty body.")
        return
    try:
        body = parse_json(data)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        quoted = clean(data[:2000].decode(errors="replace"))
        answer.fail(FailureKind.MALFORMED, f"The body of the answer is no JSON object: {quoted}")
        return
    answer.take(body, len(timeline.chunk_bytes) - 1)
    if not answer.has_choices:
        answer.fail(FailureKind.MALFORMED, "The body of the answer has no choices.")


def count(value: Any) -> int | None:
    """`value` if it is a plausible number of tokens, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else None


def whole_text(text: str) -> str:
    """`text` with what is no character (half a surrogate pair) replaced, so that it can be written as UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, list) else None


def _text(part: dict[str, Any]) -> str:
    """Everything generated in `part`, in the order it was generated: reasoning, content, tool calls."""
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
