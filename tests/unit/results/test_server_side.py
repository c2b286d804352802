"""Telemetry cut at the measured rounds: what was counted in them, and when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_runs import MS, ORIGIN_NS, Entry, entry, manifest

from llmbench.results.manifest import TrialManifest
from llmbench.results.run import Run
from llmbench.results.run_directory import RunDirectory
from llmbench.results.samples import each_samples
from llmbench.results.server_side import Between, ServerSide, bin_edges, server_side
from llmbench.results.telemetry import TELEMETRY_JOURNAL, Reading, Source, TelemetryJournal, Value

# Two rounds of one request each: from 1000 to 5000 ms, and from 7000 to 9000 ms.
ROUNDS = ((1000, 5000), (7000, 9000))


def at(ms: float, *values: Value, source: Source = "metrics", instance: str = "", gap: str | None = None) -> Reading:
    return Reading(ORIGIN_NS + round(ms * MS), 1000, "a", source, instance, values, gap)


def side(path: Path, readings: list[Reading], telemetry_s: float = 1.0) -> ServerSide:
    [samples] = each_samples(run(path, readings, telemetry_s))
    return server_side(samples)


def run(path: Path, readings: list[Reading], telemetry_s: float = 1.0) -> Run:
    entries: list[Entry] = [
        entry(0, round=number, due=start, sent=start, tokens=[(end, 2)]) for number, (start, end) in enumerate(ROUNDS)
    ]
    trials = tuple(
        TrialManifest(
            engine="a", level="closed 1", round=number, start_ns=ORIGIN_NS + start * MS, end_ns=ORIGIN_NS + end * MS,
            requests=1,
        )
        for number, (start, end) in enumerate(ROUNDS)
    )  # fmt: skip
    made = RunDirectory.create(path, manifest(trials=trials, workload={"measure": {"telemetry_s": telemetry_s}}))
    for request, chunks in entries:
        made.append(request, chunks)
    journal = TelemetryJournal(path / TELEMETRY_JOURNAL)
    journal.append(readings)
    journal.close()
    made.finish("complete")
    return Run.open(path)


def counter(name: str, values: dict[float, float], le: float | None = None) -> list[Reading]:
    return [at(ms, Value(name, value, le)) for ms, value in values.items()]


def test_a_counter_counts_the_rounds_and_nothing_beside_them(tmp_path: Path) -> None:
    # 50 before the first round, 30 between the two: warm-up.
    read = counter("generated_tokens", {0: 0, 990: 50, 3000: 100, 5010: 150, 6990: 180, 9010: 200})
    assert side(tmp_path / "run", read).increase("generated_tokens") == (150 - 50) + (200 - 180)


def test_a_counter_that_no_reading_frames_is_not_guessed(tmp_path: Path) -> None:
    found = side(tmp_path / "run", counter("generated_tokens", {990: 50, 5010: 150, 8000: 170}))
    assert found.increase("generated_tokens") is None
    assert found.increase("preemptions") is None


def test_an_engine_started_again_counts_from_zero(tmp_path: Path) -> None:
    read = counter("preemptions", {990: 7, 3000: 9, 4000: 1, 5010: 2, 6990: 2, 9010: 2})
    assert side(tmp_path / "run", read).increase("preemptions") == 2 + 1 + 1


def test_rates_are_of_the_time_that_was_read(tmp_path: Path) -> None:
    found = side(tmp_path / "run", counter("cpu_seconds", {1000: 10, 3000: 14, 5000: 14, 7000: 20, 9000: 22}))
    edges = bin_edges([found.samples])
    assert edges.tolist() == [0, 1, 2, 3, 4]
    rates = found.rate("cpu_seconds", edges)
    assert rates is not None
    # The first two seconds are of both rounds (2 and 1 cores), the others of the first round alone.
    assert rates.tolist() == [1.5, 1.5, 0, 0]


def test_gauges_are_averaged_in_bins_and_peak_within_rounds(tmp_path: Path) -> None:
    read = [
        at(ms, Value("requests_running", value))
        for ms, value in ((500, 99.0), (1500, 1.0), (1600, 3.0), (3500, 8.0), (7500, 2.0), (9500, 99.0))
    ]
    found = side(tmp_path / "run", read)
    means = found.mean("requests_running", np.array([0.0, 1, 2, 3, 4]))
    assert means is not None
    np.testing.assert_array_equal(means, [2.0, np.nan, 8.0, np.nan])
    assert found.peak("requests_running") == 8
    assert found.peak("requests_waiting") is None


def test_devices_add_up_and_their_shares_do_not(tmp_path: Path) -> None:
    read = [
        at(1500, Value("power", watts), Value("utilisation", share), source="gpu", instance=name)
        for name, watts, share in (("0", 200.0, 0.5), ("1", 100.0, 1.0))
    ]
    found = side(tmp_path / "run", read)
    edges = np.array([0.0, 4.0])
    power, utilisation = found.mean("power", edges), found.mean("utilisation", edges, share=True)
    assert power is not None
    assert utilisation is not None
    assert (power.tolist(), utilisation.tolist()) == ([300], [0.75])


def test_shares_are_of_what_was_counted_and_none_where_nothing_was(tmp_path: Path) -> None:
    hits = counter("prefix_cache_hits", {1000: 0, 2000: 0, 5000: 30, 7000: 30, 9000: 30})
    queries = counter("prefix_cache_queries", {1000: 0, 2000: 0, 5000: 90, 7000: 90, 9000: 90})
    found = side(tmp_path / "run", hits + queries).share(
        "prefix_cache_hits", "prefix_cache_queries", np.array([0.0, 1, 4])
    )
    assert found is not None
    np.testing.assert_allclose(found, [np.nan, 1 / 3])


def test_histograms_tell_a_mean_exactly_and_a_median_to_its_bucket(tmp_path: Path) -> None:
    read = [
        reading
        for name, le, before, after in (
            ("ttft_bucket", 0.1, 5, 6),
            ("ttft_bucket", 0.5, 5, 9),
            ("ttft_bucket", float("inf"), 5, 10),
            ("ttft_sum", None, 1.0, 3.0),
            ("ttft_count", None, 5, 10),
        )
        for reading in counter(name, {1000: before, 5000: after, 7000: after, 9000: after}, le)
    ]
    found = side(tmp_path / "run", read)
    assert found.histogram_mean("ttft") == pytest.approx(0.4)
    assert found.histogram_median("ttft") == Between(0.1, 0.5)
    assert found.histogram_mean("queue_time") is None
    assert found.histogram_median("queue_time") is None


def test_gaps_of_the_rounds_are_told_with_their_number(tmp_path: Path) -> None:
    why = "/metrics answers with HTTP status 503."
    found = side(tmp_path / "run", [at(ms, gap=why) for ms in (1500.0, 2500.0, 7500.0)])
    assert dict(found.gaps) == {why: 3}
    assert found.sources == frozenset()


def test_bins_are_no_finer_than_readings(tmp_path: Path) -> None:
    assert len(bin_edges([side(tmp_path / "slow", [], telemetry_s=3.0).samples])) == 2
    assert len(bin_edges([side(tmp_path / "off", [], telemetry_s=0).samples])) == 2
    assert len(bin_edges([side(tmp_path / "fast", [], telemetry_s=0.001).samples])) == 101
