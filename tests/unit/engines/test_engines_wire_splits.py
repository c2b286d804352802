"""However a network cuts an answer as a real server sent it, each read has the tokens of the events it completed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import tgi_router
from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines import registry
from llmbench.engines.adapter import Adapter
from llmbench.engines.wire import GenerationRequest, Timeline

STREAMS = [
    *(
        ("vllm", {}, f"vllm/{name}")
        for name in (
            "chat_stream_usage",
            "completions_stream_contusage",
            "completions_stream_plain",
            "completions_stream_tokenids",
            "completions_stream_usage",
            "perreq_metrics_stream",
            "stream_bytes",
            "stream_leadbyte",
        )
    ),
    ("triton", {"schema": "vllm"}, "triton/vllm_generate_stream_sp"),
    ("triton", {"schema": "trtllm"}, "triton/trtllm_generate_stream"),
    ("triton", {"schema": "llmapi"}, "triton/llmapi_generate_stream_reason"),
    ("mii-openai", {}, "mii/openai_chat_stream"),
    ("mii-openai", {}, "mii/openai_completions_stream"),
    ("llamacpp", {}, "llamacpp/stream"),
    ("llamacpp", {}, "llamacpp/chat"),
    ("mlx", {}, "mlx/stream"),
    ("mlx", {}, "mlx/chat"),
    ("transformers", {}, "transformers/stream"),
    ("transformers", {}, "transformers/chat"),
]


def cut(whole: Timeline, cuts: list[int]) -> tuple[Timeline, list[int]]:
    """The same bytes in other reads, and where each begins and ends."""
    body = b"".join(whole.chunk_bytes)
    bounds = sorted({0, len(body), *(at % (len(body) + 1) for at in cuts)})
    reads = [body[start:end] for start, end in pairwise(bounds)]
    return Timeline(
        0, status=whole.status, headers=whole.headers, chunk_ns=list(range(len(reads))), chunk_bytes=reads
    ), bounds


@pytest.mark.parametrize(("engine", "settings", "name"), STREAMS, ids=[name for _, _, name in STREAMS])
def test_any_split_gives_the_same_events(capture, streamed, engine, settings, name) -> None:
    assert_any_split_is_the_same(registry.get(engine, settings), capture(name), streamed)


@pytest.mark.parametrize("prompt", ["naïve – 漢字 words", "short ends by itself"])
def test_any_split_of_what_tgi_s_protocol_says_gives_the_same_events(timeline, streamed, prompt) -> None:
    """Nothing of the real router was captured: these are the events of the test router that keeps to its document."""
    body = {"inputs": prompt, "parameters": {"max_new_tokens": 6, "details": True}}
    assert_any_split_is_the_same(registry.get("tgi"), timeline(tgi_router.stream_events(body)), streamed)


def assert_any_split_is_the_same(adapter: Adapter, captured: Timeline, streamed: GenerationRequest) -> None:
    num_bytes = len(b"".join(captured.chunk_bytes))
    # Byte by byte, each event is found at the byte that completes it; longer reads must add those up.
    by_byte = adapter.decode(streamed, cut(captured, list(range(num_bytes)))[0])
    assert by_byte.output_tokens

    @given(st.lists(st.integers(0, num_bytes), max_size=12))
    def check(cuts: list[int]) -> None:
        recut, bounds = cut(captured, cuts)
        answer = adapter.decode(streamed, recut)
        for event, (start, end) in zip(answer.events, pairwise(bounds), strict=True):
            assert event.tokens == sum(single.tokens for single in by_byte.events[start:end])
            assert event.text == "".join(single.text for single in by_byte.events[start:end])
        assert answer.output_tokens == by_byte.output_tokens
        assert answer.failure is None

    check()
