"""Answers read from a `Timeline`: what all protocols share, of JSON over HTTP and WebSocket, and of gRPC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from llmbench.engines.adapter import CountTokens
from llmbench.engines.server_message import clean, error_in, header, parse_json, status_failure
from llmbench.engines.sse import SseEvent, SseParser
from llmbench.engines.token_counts import Delta, attribute
from llmbench.engines.wire import DecodedAnswer, Failure, FailureKind, Timeline, TokenSource

MAX_COUNT = 2**31 - 1
_DONE = b"[DONE]"
# The status of an answer by WebSocket.
_SWITCHING_PROTOCOLS = 101
# Failures that a server states itself.
_EXPLANATIONS = frozenset({FailureKind.SERVER_ERROR, FailureKind.HTTP_STATUS, FailureKind.RATE_LIMITED})


class Answer(ABC):
    """What the events so far have said. A protocol is a subclass with its own `take`.

    `has_answer` turns true with the first event that is part of an answer, `is_done` with [DONE]. `failure` is the
    first thing found wrong. `token_ids` are those of the whole answer, where they come at once and not with its deltas.
    """

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.token_ids: tuple[int, ...] | None = None
        self.finish_reason: str | None = None
        self.failure: Failure | None = None
        self.num_events = 0
        self.has_answer = False
        self.is_done = False

    @abstractmethod
    def take(self, body: dict[str, Any], chunk: int) -> None:
        """Add one event's JSON, or a whole answer's. It is no error report, and may be anything else."""

    def unwrap(self, value: Any) -> dict[str, Any] | None:
        """The JSON object that `take` is to be given, None if `value` is or holds none."""
        return value if isinstance(value, dict) else None

    def error_kind(self, body: dict[str, Any]) -> FailureKind:
        """The kind of failure that an error reported under HTTP 200 is."""
        return FailureKind.SERVER_ERROR

    def missing_end(self) -> str | None:
        """What a stream that ends here lacks to be complete, None if nothing."""
        return None if self.is_done else f"its end marker {_DONE.decode()}"

    def fail(self, kind: FailureKind, message: str) -> None:
        """Keep the first failure: what follows it is most often its consequence."""
        if self.failure is None:
            self.failure = Failure(kind, message)

    def finish(self, reason: Any) -> bool:
        """Take note of a finish reason; false if `reason` is none."""
        cleaned = clean(reason) if isinstance(reason, str) else ""
        if cleaned:
            self.finish_reason = cleaned
        return bool(cleaned)


def read_answer(
    answer: Answer, timeline: Timeline, count_tokens: CountTokens | None, *, streamed: bool
) -> DecodedAnswer:
    """`answer`, still empty, filled from a timeline that was asked for as a stream or in one piece. Never raises."""
    answer.failure = status_failure(timeline)
    if answer.failure is None and timeline.status == _SWITCHING_PROTOCOLS:
        (_read_json_messages if streamed else _read_body)(answer, timeline)
    elif answer.failure is None:
        content_type = (header(timeline, "content-type") or "").lower()
        is_stream = "event-stream" in content_type or (streamed and "json" not in content_type)
        (_read_stream if is_stream else _read_body)(answer, timeline)
        if is_stream != streamed and answer.has_answer:
            asked, came = ("a stream", "one piece") if streamed else ("one piece", "a stream")
            answer.fail(FailureKind.MALFORMED, f"The answer was asked for as {asked} and came as {came}.")
    return _decoded(answer, timeline, count_tokens, streamed)


def read_messages(
    answer: Answer,
    timeline: Timeline,
    count_tokens: CountTokens | None,
    take: Callable[[bytes, int], None],
    *,
    streamed: bool,
) -> DecodedAnswer:
    """`answer`, still empty, filled by `take` from a gRPC answer's messages, one to a chunk. `take` raises ValueError
    for what is no message of its kind."""
    for chunk, data in enumerate(timeline.chunk_bytes):
        answer.num_events += 1
        try:
            take(data, chunk)
        except ValueError as error:
            answer.fail(FailureKind.MALFORMED, f"Message {answer.num_events} of the answer cannot be read: {error}")
    missing = answer.missing_end()
    if answer.num_events == 0:
        answer.fail(FailureKind.TRUNCATED, "The server ended the call without one message.")
    elif missing is not None:
        answer.fail(FailureKind.TRUNCATED, f"The call ended without {missing}, {answer.num_events} messages in.")
    elif not answer.has_answer:
        answer.fail(FailureKind.MALFORMED, f"The call ended after {answer.num_events} messages without any answer.")
    return _decoded(answer, timeline, count_tokens, streamed)


def _decoded(answer: Answer, timeline: Timeline, count_tokens: CountTokens | None, streamed: bool) -> DecodedAnswer:
    # A usage report without any answer counts nothing that was seen.
    deltas, total = (answer.deltas, answer.output_tokens) if answer.has_answer else ([], None)
    events, output_tokens, source = attribute(deltas, len(timeline.chunk_ns), total, count_tokens, streamed=streamed)
    return DecodedAnswer(
        events=events,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=output_tokens,
        token_source=source,
        token_ids=_token_ids(answer, output_tokens, source),
        finish_reason=answer.finish_reason,
        failure=_graver(timeline.failure, answer.failure),
    )


def _token_ids(answer: Answer, output_tokens: int | None, source: TokenSource | None) -> tuple[int, ...] | None:
    if source is TokenSource.TOKEN_IDS:
        return tuple(token_id for delta in answer.deltas if delta.generated for token_id in delta.token_ids or ())
    # Ids of some of the tokens are no answer to where two answers part.
    told = answer.token_ids
    return told if told is not None and len(told) == output_tokens else None


def count(value: Any) -> int | None:
    """`value` if it is a plausible number of tokens, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else None


def token_ids(value: Any) -> list[int] | None:
    """`value` if it is a list of plausible token ids, else None."""
    return value if isinstance(value, list) and all(count(each) is not None for each in value) else None


def whole_text(text: str) -> str:
    """`text` with what is no character (half a surrogate pair) replaced, so that it can be written as UTF-8."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _graver(seen: Failure | None, said: Failure | None) -> Failure | None:
    # A server that reports an error and hangs up has explained itself; the cut alone would hide the reason. What else
    # is wrong with an answer that was cut is the cut's doing.
    if seen is not None and seen.kind is FailureKind.TRUNCATED and said is not None and said.kind in _EXPLANATIONS:
        return said
    return seen or said


def _read_stream(answer: Answer, timeline: Timeline) -> None:
    parser = SseParser()
    for chunk, data in enumerate(timeline.chunk_bytes):
        for event in parser.feed(data):
            _take_event(answer, event, chunk)
    for event in parser.finish():
        # An event without its blank line counts if it is whole; half of one is what a cut leaves, and no garbage.
        if event.data.strip() == _DONE or _json_object(answer, event.data) is not None:
            _take_event(answer, event, len(timeline.chunk_bytes) - 1)
    _check_end(answer, timeline)


def _read_json_messages(answer: Answer, timeline: Timeline) -> None:
    """By WebSocket each message is what an SSE event carries, [DONE] included."""
    for chunk, data in enumerate(timeline.chunk_bytes):
        _take_event(answer, SseEvent(data), chunk)
    _check_end(answer, timeline)


def _check_end(answer: Answer, timeline: Timeline) -> None:
    missing = answer.missing_end()
    if answer.num_events == 0:
        num_bytes = sum(map(len, timeline.chunk_bytes))
        how = f"The server answered HTTP {timeline.status} and ended the stream without one event ({num_bytes} bytes)."
        answer.fail(FailureKind.TRUNCATED, how)
    elif missing is not None:
        reason = f" after finish_reason {answer.finish_reason}" if answer.finish_reason else ""
        how = f"The stream ended without {missing}, {answer.num_events} events in{reason}."
        answer.fail(FailureKind.TRUNCATED, how)
    elif not answer.has_answer:
        answer.fail(FailureKind.MALFORMED, f"The stream ended after {answer.num_events} events without any answer.")


def _take_event(answer: Answer, event: SseEvent, chunk: int) -> None:
    answer.num_events += 1
    data = event.data.strip()
    if data == _DONE:
        answer.is_done = True
        return
    body = _json_object(answer, data)
    error = error_in(body)
    if event.name == b"error" and error is None:
        error = _quoted(data) or "no message"
    if error is not None:
        answer.fail(answer.error_kind(body or {}), f"The server reported an error under HTTP 200: {error}")
    elif body is None:
        text = f"Event {answer.num_events} of the stream is no JSON object: {_quoted(data)}"
        answer.fail(FailureKind.MALFORMED, text)
    else:
        answer.take(body, chunk)


def _read_body(answer: Answer, timeline: Timeline) -> None:
    data = b"".join(timeline.chunk_bytes)
    body = _json_object(answer, data)
    error = error_in(body)
    if not data:
        answer.fail(FailureKind.TRUNCATED, f"The server answered HTTP {timeline.status} with an empty body.")
    elif error is not None:
        answer.fail(answer.error_kind(body or {}), f"The server reported an error under HTTP 200: {error}")
    elif body is None:
        answer.fail(FailureKind.MALFORMED, f"The body of the answer is no JSON object: {_quoted(data)}")
    else:
        answer.take(body, len(timeline.chunk_bytes) - 1)
        if not answer.has_answer:
            answer.fail(FailureKind.MALFORMED, f"The body holds no answer: {_quoted(data)}")


def _json_object(answer: Answer, data: bytes) -> dict[str, Any] | None:
    try:
        return answer.unwrap(parse_json(data))
    except ValueError:
        return None


def _quoted(data: bytes) -> str:
    return clean(data[:2000].decode(errors="replace"))
