"""Answers as timelines: captured ones, and bodies made up for a test."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from llmbench.engines.wire import GenerationRequest, Timeline

WIRE = Path(__file__).parents[2] / "data" / "wire"

MakeTimeline = Callable[..., Timeline]


def make_timeline(
    reads: bytes | Iterable[bytes], status: int = 200, content_type: str = "text/event-stream", **headers: str
) -> Timeline:
    """Reads of a body, one millisecond apart; bytes are a single read."""
    chunks = [reads] if isinstance(reads, bytes) else list(reads)
    return Timeline(
        due_ns=0,
        sent_ns=0,
        status=status,
        headers=[("content-type", content_type), *((name.replace("_", "-"), value) for name, value in headers.items())],
        chunk_ns=[1_000_000 * (index + 1) for index in range(len(chunks))],
        chunk_bytes=chunks,
    )


def load_capture(name: str) -> Timeline:
    """The answer in `tests/data/wire/NAME.txt`, each server event a read of its own."""
    head, _, body = (WIRE / f"{name}.txt").read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")
    status_line, *lines = head.decode().splitlines()
    fields = [(name.lower(), value) for name, value in (line.split(": ", 1) for line in lines)]
    content_type = dict(fields)["content-type"]
    if "event-stream" in content_type:
        reads = [event + b"\n\n" for event in body.split(b"\n\n") if event.strip()]
    else:
        reads = [body]
    return make_timeline(reads, int(status_line.split()[1]), content_type)


@pytest.fixture
def timeline() -> MakeTimeline:
    return make_timeline


@pytest.fixture
def capture() -> Callable[[str], Timeline]:
    return load_capture


@pytest.fixture
def streamed() -> GenerationRequest:
    return GenerationRequest("r0", "tiny", 6, prompt="one two")


@pytest.fixture
def whole() -> GenerationRequest:
    return GenerationRequest("r0", "tiny", 6, prompt="one two", stream=False)
