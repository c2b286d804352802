"""Named stretches of a step's time: the engine says where they begin and end, and whoever wants to know listens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

# Name to what is entered at the stretch's beginning and left at its end.
Spans = Callable[[str], AbstractContextManager[None]]

_NOTHING = contextlib.nullcontext()


def no_spans(_name: str) -> AbstractContextManager[None]:
    """Nobody listens."""
    return _NOTHING


class Span(NamedTuple):
    """Times of time.perf_counter_ns()."""

    name: str
    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


class SpanLog:
    """Writes them down."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def __call__(self, name: str) -> _OpenSpan:
        return _OpenSpan(self.spans, name)

    def take(self) -> list[Span]:
        """What was written since the last call."""
        taken = self.spans.copy()
        self.spans.clear()
        return taken


class _OpenSpan:
    """A class and no generator, which would take longer than what some spans measure."""

    __slots__ = ("_name", "_spans", "_start_ns")

    def __init__(self, spans: list[Span], name: str) -> None:
        self._spans = spans
        self._name = name

    def __enter__(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        self._spans.append(Span(self._name, self._start_ns, time.perf_counter_ns()))
