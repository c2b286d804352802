"""Server-sent events come out the same however they are written and cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines.sse import SseEvent, SseParser


def parse(*reads: bytes) -> list[SseEvent]:
    parser = SseParser()
    return [event for read in reads for event in parser.feed(read)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("space", [b"", b" "], ids=["no space", "space"])
def test_every_line_end_and_both_spellings_give_the_event(end: bytes, space: bytes) -> None:
    assert parse(b"data:" + space + b"{}" + end + end) == [SseEvent(b"{}")]


def test_several_data_lines_are_one_event() -> None:
    assert parse(b"data: a\ndata: b\ndata\n\n") == [SseEvent(b"a\nb\n")]


def test_comments_ids_and_events_without_data_are_none() -> None:
    assert parse(b": keep-alive\n\nid: 3\nretry: 10\n\nevent: ping\n\ndata: x\n\n") == [SseEvent(b"x")]


def test_an_event_keeps_its_name_and_the_next_one_has_its_own() -> None:
    assert parse(b"event: error\ndata: x\n\ndata: y\n\n") == [SseEvent(b"x", b"error"), SseEvent(b"y")]


def test_only_one_space_after_the_colon_is_dropped() -> None:
    assert parse(b"data:  x\n\n") == [SseEvent(b" x")]


def test_a_byte_order_mark_before_the_first_event_is_dropped() -> None:
    assert parse(b"\xef\xbb", b"\xbfdata: x\n\n") == [SseEvent(b"x")]


def test_an_event_belongs_to_the_read_that_completed_it() -> None:
    parser = SseParser()
    assert parser.feed(b"data: x\n") == []
    assert parser.feed(b"\ndata: y") == [SseEvent(b"x")]
    assert parser.feed(b"\n\n") == [SseEvent(b"y")]


def test_crlf_cut_in_the_middle_ends_one_line() -> None:
    assert parse(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [SseEvent(b"a\nb")]


def test_finish_gives_the_event_that_had_no_blank_line() -> None:
    parser = SseParser()
    assert parser.feed(b"data: [DONE]") == []
    assert parser.finish() == [SseEvent(b"[DONE]")]
    assert parser.finish() == []


line = st.sampled_from(
    [b"data: {}", b'data:{"a":1}', "data: é你😀".encode(), b": c", b"event: error", b"id: 1", b"", b""]
)
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
streams = st.lists(st.tuples(line, ends).map(b"".join), max_size=30).map(b"".join)


@given(streams | st.binary(max_size=200), st.lists(st.integers(0, 400)))
def test_no_split_changes_what_comes_out(stream: bytes, cuts: list[int]) -> None:
    bounds = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    assert parse(*(stream[start:end] for start, end in pairwise(bounds))) == parse(stream)


@given(streams)
def test_finish_gives_the_same_whatever_the_split(stream: bytes) -> None:
    at_once, by_byte = SseParser(), SseParser()
    first = at_once.feed(stream)
    second = [event for byte in stream for event in by_byte.feed(bytes([byte]))]
    assert (first, at_once.finish()) == (second, by_byte.finish())
