"""The profile of runs whose every stamp was chosen."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from made_runs import MS, ORIGIN_NS, Entry, entry, manifest
from rich.console import Console

from llmbench.harness.cli.show_profile import show_profile
from llmbench.harness.decode_profile import DecodeProfile, decode_profile
from llmbench.harness.trace_export import write_trace
from llmbench.results.run import Run
from llmbench.results.run_directory import RunDirectory
from llmbench.results.samples import each_samples


def made(tmp_path: Path, *entries: Entry) -> Run:
    directory = RunDirectory.create(tmp_path / "run", manifest())
    for request, chunks in entries:
        directory.append(request, chunks)
    directory.finish("complete")
    return Run.open(directory.path)


def profiled(run: Run) -> DecodeProfile:
    [samples] = each_samples(run)
    return decode_profile(samples)


def even(start: float, count: int, gap: float = 10) -> list[tuple[float, int]]:
    return [(start + gap * place, 1) for place in range(count)]


def test_the_three_customs_differ_where_reads_bring_several_tokens(tmp_path: Path) -> None:
    profile = profiled(made(tmp_path, entry(tokens=[(10, 1), (40, 3), (50, 1)])))
    assert (profile.by_chunk.n, profile.by_chunk.p50, profile.by_chunk.maximum) == (2, 20.0, 30.0)
    # Three tokens of 10 ms each, and one of 10 ms.
    assert (profile.by_token.n, profile.by_token.p50, profile.by_token.maximum) == (4, 10.0, 10.0)
    assert (profile.by_request.n, profile.by_request.p50) == (1, 10.0)
    assert profile.bursts == {1: 2, 3: 1}


def test_places_and_streams_are_counted_from_the_tokens(tmp_path: Path) -> None:
    growing = [(0.0, 1), (1.0, 1), (3.0, 1), (6.0, 1), (10.0, 1)]
    profile = profiled(made(tmp_path, entry(sent=0, tokens=growing), entry(1, due=2, sent=2, tokens=even(2, 2, 4))))
    assert [(each.first, each.last, each.spread.n) for each in profile.by_place] == [(1, 1, 2), (2, 3, 2), (4, 7, 1)]
    assert profile.by_place[2].spread.p50 == 4.0
    # The second request decodes from 2 to 6 ms: the gaps that end at 3 and 6 ms saw both, and so did its own.
    assert [(each.first, each.spread.n) for each in profile.by_streams] == [(1, 2), (2, 3)]


def test_a_stall_names_the_prefill_that_it_met(tmp_path: Path) -> None:
    stalled = [*even(10, 5), (350.0, 1), *even(360, 4)]
    newcomer = entry(1, due=60, sent=61, tokens=even(340, 4))
    profile = profiled(made(tmp_path, entry(tokens=stalled), newcomer))
    [stall] = profile.stalls
    assert (stall.request_id, stall.token, stall.gap_ms) == ("a-r0-00000", 5, 300.0)
    assert stall.at_s == pytest.approx(0.05)
    assert stall.prefills == ("a-r0-00001",)
    assert profile.prefill_share == pytest.approx(1 / 12)


def test_a_stall_of_its_own_making_meets_no_prefill(tmp_path: Path) -> None:
    profile = profiled(made(tmp_path, entry(tokens=[*even(10, 5), (350.0, 1)])))
    assert [stall.prefills for stall in profile.stalls] == [()]


def test_failed_requests_are_left_out_and_even_ones_have_no_jitter(tmp_path: Path) -> None:
    profile = profiled(made(tmp_path, entry(tokens=even(10, 5)), entry(1, tokens=[(10, 1), (999, 1)], ok=False)))
    assert (profile.num_requests, profile.num_gaps, profile.stalls) == (1, 4, ())
    assert profile.jitter.maximum == pytest.approx(0.0)


@pytest.mark.parametrize("tokens", [[], [(10.0, 1)]])
def test_answers_without_gaps_have_a_profile_and_a_page_too(tmp_path: Path, tokens: list[tuple[float, int]]) -> None:
    run = made(tmp_path, entry(tokens=tokens, end=20))
    profile = profiled(run)
    assert (profile.num_gaps, profile.stall_ms, profile.prefill_share) == (0, None, None)
    show_profile(run, Console(file=io.StringIO()))


def test_the_page_shows_every_part_within_80_columns(tmp_path: Path) -> None:
    run = made(tmp_path, entry(tokens=[*even(10, 5), (350.0, 1)]), entry(1, due=60, sent=61, tokens=even(340, 4)))
    page = io.StringIO()
    show_profile(run, Console(file=page, width=80))
    text = page.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for part in ("read: gap between two reads", "by token's place", "1 stalls", "a-r0-00001", "tokens over time", "█"):
        assert part in text, part


def test_the_trace_has_a_track_per_request_and_a_slice_per_token(tmp_path: Path) -> None:
    failed = entry(1, due=5, sent=None, tokens=[], end=6, ok=False)
    run = made(tmp_path, entry(tokens=[(10, 1), (40, 3)]), failed)
    path = tmp_path / "trace.json"
    num_events = write_trace(run, path)
    events = json.loads(path.read_text())["traceEvents"]
    assert len(events) == num_events
    tracks = {event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name"}
    assert set(tracks) == {"a-r0-00000", "a-r0-00001"}
    slices = {event["name"]: event for event in events if event["ph"] == "X" and event["tid"] == 1}
    assert (slices["request"]["ts"], slices["request"]["dur"]) == (0.0, 40_000.0)
    assert (slices["prefill"]["ts"], slices["prefill"]["dur"]) == (1_000.0, 9_000.0)
    assert (slices["tokens 1-3"]["ts"], slices["tokens 1-3"]["dur"]) == (10_000.0, 30_000.0)
    [request] = [event for event in events if event["ph"] == "X" and event["tid"] == 2]
    assert (request["name"], request["args"]["error"]) == ("request", "The stream ended early.")
    counts = [event["args"] for event in events if event["ph"] == "C"]
    assert counts == [{"prefill": 1, "decode": 0}, {"prefill": 0, "decode": 1}, {"prefill": 0, "decode": 0}]


def test_all_attempts_of_a_request_are_on_its_track(tmp_path: Path) -> None:
    refused = entry(sent=1, tokens=[], end=4, ok=False, error_kind="rate_limited")
    later = {"attempt": 2, "attempt_due_ns": ORIGIN_NS + 50 * MS, "request_id": "a-r0-00000#2"}
    run = made(tmp_path, refused, entry(sent=52, tokens=[(60, 1), (70, 1)], **later), entry(1, due=5, sent=6))
    write_trace(run, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [event["args"]["name"] for event in events if event["name"] == "thread_name"] == ["a-r0-00000", "a-r0-00001"]
    tries = [(event["name"], event["tid"], event["ts"]) for event in events if "status" in event.get("args", {})]
    assert tries == [("request", 1, 0.0), ("attempt 2", 1, 50_000.0), ("request", 2, 5_000.0)]
    assert [event["ts"] for event in events if event["name"] == "prefill"] == [52_000.0, 6_000.0]
