"""One answer of the simulated engine: all its bytes, when they are due, and when they were really sent."""

from __future__ import annotations

import json
import random
from array import array
from typing import Any

from llmbench.engines.simulated_server.behaviour import Behaviour
from llmbench.engines.simulated_server.question import Question

# Chunks that are due together leave together, as from a busy server; more than this would not fit a socket's buffer.
MAX_SEND_BYTES = 32 * 1024
_MS = 1_000_000
_END = b"0\r\n\r\n"
_DONE = b"data: [DONE]\n\n"
_BROKEN = b'data: {"choices":[{"index":0,"text":" ti\n\n'


class Answer:
    """Steps of bytes on an absolute schedule, and two stamps per chunk.

    The kernel took a chunk after its `began_ns` and before its `sent_ns`. On loopback the client can have it before
    `sent_ns`, and a wide gap says that the server itself was held up.

    Step k is chunk k; a fault replaces or precedes a step, so it takes effect when that chunk would have been due.
    `due_ns` is when the next step is due. `closes` says that the connection is closed after the last one. `outcome` is
    how the answer ends; the connection changes it when it ends otherwise. `pace` multiplies the times of `behaviour`.
    """

    __slots__ = (
        "_first_due_ns",
        "_is_flood",
        "_itl_ns",
        "_jitter",
        "_jitter_ns",
        "_last_send_ns",
        "_max_run",
        "_next",
        "_num_chunks",
        "_num_steps",
        "_plain",
        "_runs",
        "_special",
        "_special_steps",
        "_stall_at",
        "_stall_ns",
        "arrival_ns",
        "closes",
        "due_ns",
        "head",
        "head_ns",
        "num_sent",
        "outcome",
        "question",
    )

    def __init__(self, question: Question, behaviour: Behaviour, arrival_ns: int, pace: float = 1.0) -> None:
        self.question = question
        self.arrival_ns = arrival_ns
        self.head = b""
        self.head_ns: int | None = None
        self.num_sent = 0
        # Per send, not per chunk: how many chunks, began, sent. A flood of chunks leaves in few sends.
        self._runs = array("q")
        self._last_send_ns: tuple[int, int] | None = None
        self.closes = False
        self.outcome = "done"
        self._next = 0
        self._itl_ns = int(pace * behaviour.itl_ms * _MS)
        self._first_due_ns = arrival_ns + int(pace * behaviour.ttft_ms * _MS)
        self._jitter_ns = int(behaviour.jitter_ms * _MS)
        self._jitter = random.Random(f"{behaviour.seed}/{question.request_id}")
        self._stall_at = behaviour.stall_at
        self._stall_ns = int(behaviour.stall_s * 1e9)
        # All chunks are due when the first is: nothing has to be asked per chunk.
        self._is_flood = not self._itl_ns and not self._jitter_ns and self._stall_at is None
        num_tokens = question.max_tokens if behaviour.output_tokens is None else behaviour.output_tokens
        self._plain = b""
        self._special_steps: dict[int, bytes] = {}
        if behaviour.status >= 300 or behaviour.error_body or behaviour.empty:
            self._refuse(behaviour)
        elif question.stream:
            self._stream(behaviour, num_tokens)
        else:
            self._whole(behaviour, num_tokens)
        self._special = min(self._special_steps)
        self.due_ns = self._due_ns(0)
        self._max_run = max(1, MAX_SEND_BYTES // max(1, len(self._plain)))

    @property
    def is_over(self) -> bool:
        return self._next >= self._num_steps

    def take(self, now_ns: int) -> bytes:
        """The bytes of the steps due by `now_ns`, at least one step, which are thereby taken."""
        first = self._next
        if first == self._special:
            self._next = first + 1
            self._special = min((step for step in self._special_steps if step > first), default=self._num_steps)
            self.due_ns = self._due_ns(self._next)
            return self._special_steps[first]
        limit = min(self._special, first + self._max_run)
        if self._is_flood:
            after = limit
            due_ns = self.due_ns
        else:
            after = first + 1
            due_ns = self._due_ns(after)
            while after < limit and due_ns <= now_ns:
                after += 1
                due_ns = self._due_ns(after)
        self._next, self.due_ns = after, due_ns
        return self._plain if after - first == 1 else self._plain * (after - first)

    def stamp(self, began_ns: int, sent_ns: int) -> None:
        """Everything taken so far has left between these times; before the first step that is the head."""
        self._last_send_ns = began_ns, sent_ns
        num_left = min(self._next, self._num_chunks)
        if num_left > self.num_sent:
            self._runs.extend((num_left - self.num_sent, began_ns, sent_ns))
            self.num_sent = num_left
        elif self.head and self.head_ns is None:
            self.head_ns = sent_ns

    def log_line(self, now_ns: int) -> bytes:
        """One JSON object for the log. `began_ns` and `sent_ns` have an entry per chunk that left; the end left between
        `end_began_ns` and `end_ns`, which of an answer that was cut short is now."""
        nums, began_ns, sent_ns = self._runs[0::3], self._runs[1::3], self._runs[2::3]
        end_began_ns, end_ns = self._last_send_ns or (now_ns, now_ns)
        if not self.is_over:
            end_began_ns = end_ns = now_ns
        record = {
            "request_id": self.question.request_id,
            "outcome": self.outcome,
            "arrival_ns": self.arrival_ns,
            "head_ns": self.head_ns,
            "end_began_ns": end_began_ns,
            "end_ns": end_ns,
        }
        # In a flood writing the log would take longer than sending: equal stamps are written once and repeated.
        columns = f'"began_ns":[{_repeated(nums, began_ns)}],"sent_ns":[{_repeated(nums, sent_ns)}]'
        return f"{json.dumps(record, separators=(',', ':'))[:-1]},{columns}}}\n".encode()

    def _due_ns(self, step: int) -> int:
        due_ns = self._first_due_ns + step * self._itl_ns
        if self._stall_at is not None and step >= self._stall_at:
            due_ns += self._stall_ns
        if self._jitter_ns:
            due_ns += int(self._jitter.random() * self._jitter_ns)
        return due_ns

    def _refuse(self, behaviour: Behaviour) -> None:
        status = behaviour.status if behaviour.status >= 300 else 200
        self.outcome = f"status {status}" if status >= 300 else "empty" if behaviour.empty else "error body"
        message = {"error": {"message": f"Simulated failure with HTTP {status}.", "type": "simulated", "code": status}}
        fields = {} if behaviour.retry_after_s is None else {"retry-after": str(behaviour.retry_after_s)}
        body = b"" if behaviour.empty else json.dumps(message).encode()
        self._special_steps[0] = response_head(status, self.question, fields, len(body)) + body
        self._num_steps, self._num_chunks = 1, 0

    def _whole(self, behaviour: Behaviour, num_tokens: int) -> None:
        question = self.question
        num_chunks = -(-num_tokens // behaviour.tokens_per_chunk)
        body = question.frame(num_tokens, "length", whole=True) | {"usage": question.usage(num_tokens)}
        encoded = json.dumps(body, separators=(",", ":")).encode()
        self._special_steps[0] = response_head(200, question, {}, len(encoded)) + encoded
        # The last token's time: an answer in one piece is ready when a stream of it would have ended.
        self._first_due_ns = self._due_ns(num_chunks - 1)
        self._stall_at, self._jitter_ns = None, 0
        self._num_steps = self._num_chunks = 1
        if behaviour.cut_after is not None:
            self._special_steps[0] = self._special_steps[0][: -len(encoded) // 2 or None]
            self.closes, self.outcome = True, "cut"

    def _stream(self, behaviour: Behaviour, num_tokens: int) -> None:
        question = self.question
        num_chunks = -(-num_tokens // behaviour.tokens_per_chunk)
        self.head = response_head(200, question, {"content-type": "text/event-stream; charset=utf-8"}, None)
        if question.is_chat:
            self.head += _chunk(_event(question.role_frame()))
        self._plain = _chunk(_event(question.frame(behaviour.tokens_per_chunk, None)))
        num_last = num_tokens - (num_chunks - 1) * behaviour.tokens_per_chunk
        last = _chunk(_event(question.frame(num_last, "length")))
        if question.include_usage:
            last += _chunk(_event(question.usage_frame(num_tokens)))
        if not behaviour.no_done:
            last += _chunk(_DONE)
        steps = {num_chunks - 1: last + _END}
        self._num_steps = self._num_chunks = num_chunks
        broken_at, error_at, cut_at = behaviour.malformed_after, behaviour.error_after, behaviour.cut_after
        if broken_at is not None and broken_at < num_chunks:
            steps[broken_at] = _chunk(_BROKEN) + steps.get(broken_at, self._plain)
        if error_at is not None and error_at < num_chunks:
            error = {"error": {"message": "Simulated failure in mid-stream.", "type": "simulated", "code": 500}}
            self._end_at(steps, error_at, _chunk(_event(error)) + _chunk(_DONE) + _END, "error event")
        if cut_at is not None and cut_at < self._num_steps:
            self._end_at(steps, cut_at, b"", "cut")
            self.closes = True
        self._special_steps = steps

    def _end_at(self, steps: dict[int, bytes], step: int, instead: bytes, outcome: str) -> None:
        for later in [found for found in steps if found >= step]:
            del steps[later]
        steps[step] = instead
        self._num_steps, self._num_chunks, self.outcome = step + 1, step, outcome


def response_head(status: int, question: Question, fields: dict[str, str], num_bytes: int | None) -> bytes:
    """The head of an answer, `content-length` for a body in one piece and chunked for None."""
    length = {"transfer-encoding": "chunked"} if num_bytes is None else {"content-length": str(num_bytes)}
    fields = {"server": "llmbench-simulated", "content-type": "application/json", **fields, **length}
    if question.request_id:
        fields["x-request-id"] = question.request_id
    if not question.keep_alive:
        fields["connection"] = "close"
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Simulated')}", *(f"{key}: {fields[key]}" for key in fields)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def _repeated(nums: array[int], stamps_ns: array[int]) -> str:
    """`stamps_ns[i]` written `nums[i]` times, with commas between all of them."""
    return "".join(f"{stamp_ns}," * num for num, stamp_ns in zip(nums, stamps_ns, strict=True))[:-1]


_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 429: "Too Many Requests"}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
