"""Every metric on requests whose stamps are small numbers of milliseconds."""

from __future__ import annotations

import math

import pytest
from made_runs import MakeRun, entry, only, total

from llmbench.results.manifest import EngineManifest
from llmbench.results.metrics import METRICS, values_of
from llmbench.results.samples import each_samples


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ttft", [10]),  # 10 − 0, from due
        ("ttft_send", [7]),  # 10 − 3, from sent
        ("tpot", [15]),  # (40 − 10) / (3 − 1)
        ("itl", [10, 20]),
        ("itl_chunk", [10, 20]),
        ("e2e", [45]),  # 45 − 0: the end, not the last token
        ("e2e_send", [42]),
        ("send_lag", [3]),
        ("prompt_tokens", [8]),
        ("output_tokens", [3]),
        ("tokens_per_chunk", [1, 1, 1]),
    ],
)
def test_a_plain_request(make_run: MakeRun, name: str, expected: list[float]) -> None:
    run = make_run([entry(due=0, sent=3, tokens=[(10, 1), (20, 1), (40, 1)], end=45)])
    assert values_of(only(run), name).values.tolist() == pytest.approx(expected)


def test_a_burst_is_one_gap_by_chunk_and_spread_over_its_tokens(make_run: MakeRun) -> None:
    samples = only(make_run([entry(tokens=[(10, 1), (40, 3)])]))
    assert values_of(samples, "itl_chunk").values.tolist() == pytest.approx([30])
    spread = values_of(samples, "itl")
    assert spread.values.tolist() == pytest.approx([10])
    assert spread.weights is not None
    assert spread.weights.tolist() == [3]
    assert values_of(samples, "tokens_per_chunk").values.tolist() == [1, 3]


def test_an_empty_chunk_is_no_token(make_run: MakeRun) -> None:
    samples = only(make_run([entry(tokens=[(5, 0), (10, 1), (15, 0), (30, 1)])]))
    assert values_of(samples, "ttft").values.tolist() == pytest.approx([10])
    assert values_of(samples, "itl_chunk").values.tolist() == pytest.approx([20])


def test_gaps_never_cross_requests(make_run: MakeRun) -> None:
    run = make_run([entry(0, tokens=[(10, 1), (20, 1)]), entry(1, due=100, tokens=[(110, 1), (140, 1)])])
    gaps = values_of(only(run), "itl")
    assert gaps.values.tolist() == pytest.approx([10, 30])
    assert gaps.request.tolist() == [0, 1]


def test_one_token_has_no_tpot(make_run: MakeRun) -> None:
    assert values_of(only(make_run([entry(tokens=[(10, 1)])])), "tpot").values.size == 0


@pytest.mark.parametrize("name", ["ttft", "ttft_send", "tpot", "itl", "itl_chunk", "e2e", "e2e_send"])
def test_a_failed_request_is_infinitely_slow(make_run: MakeRun, name: str) -> None:
    run = make_run([entry(0), entry(1, due=50, tokens=[(60, 1), (65, 1)], ok=False)])
    values = values_of(only(run), name)
    assert values.values[values.request == 1].max() == math.inf


def test_without_streaming_only_whole_answers_are_timed(make_run: MakeRun) -> None:
    run = make_run([entry()], workload={"request": {"stream": False}})
    samples = only(run)
    assert [values_of(samples, name).values.size for name in ("ttft", "tpot", "itl", "itl_chunk", "e2e")] == [0] * 4 + [
        1
    ]


def test_throughput_counts_successes_from_first_due_to_last_end(make_run: MakeRun) -> None:
    entries = [
        entry(0, due=0, tokens=[(500, 4)], end=1000),
        entry(1, due=100, tokens=[(1500, 4)], end=2000),
        entry(2, due=200, tokens=[(300, 9)], end=400, ok=False),
    ]
    run = make_run(entries)
    assert total(run, "duration") == pytest.approx(2)
    assert total(run, "output_throughput") == pytest.approx(8 / 2)
    assert total(run, "total_throughput") == pytest.approx((8 + 16) / 2)
    assert total(run, "request_throughput") == pytest.approx(2 / 2)
    assert total(run, "success_share") == pytest.approx(2 / 3)


def test_time_between_rounds_is_not_counted(make_run: MakeRun) -> None:
    run = make_run([entry(0, end=1000), entry(0, due=60_000, tokens=[(60_010, 1)], end=61_000, round=1)])
    assert total(run, "duration") == pytest.approx(2)


def test_warm_up_is_left_out(make_run: MakeRun) -> None:
    run = make_run([entry(0, warmup=True, tokens=[(900, 1)]), entry(1)])
    assert values_of(only(run), "ttft").values.tolist() == pytest.approx([10])
    assert values_of(only(run), "itl").values.tolist() == pytest.approx([10])


def test_goodput_needs_every_limit_met(make_run: MakeRun) -> None:
    entries = [
        entry(0, tokens=[(10, 1), (20, 1)], end=1000),  # TTFT 10, TPOT 10
        entry(1, tokens=[(90, 1), (100, 1)], end=1000),  # TTFT 90: too late
        entry(2, tokens=[(10, 1), (80, 1)], end=1000),  # TPOT 70: too slow
        entry(3, tokens=[(10, 1)], end=1000),  # one token: no TPOT to miss
        entry(4, tokens=[(10, 1), (20, 1)], end=1000, ok=False),
    ]
    run = make_run(entries, workload={"measure": {"slo": {"ttft_ms": 50, "tpot_ms": 20, "e2e_ms": None}}})
    assert total(run, "goodput") == pytest.approx(2)
    assert total(run, "slo_attainment") == pytest.approx(2 / 5)


def test_without_limits_there_is_no_goodput(make_run: MakeRun) -> None:
    run = make_run([entry()])
    assert (total(run, "goodput"), total(run, "slo_attainment")) == (None, None)


def test_when_nothing_ended_there_is_no_throughput(make_run: MakeRun) -> None:
    entries = [entry(tokens=[], sent=None, ok=False)]
    run = make_run(entries)
    assert (total(run, "duration"), total(run, "output_throughput"), total(run, "success_share")) == (None, None, 0.0)
    assert values_of(only(run), "send_lag").values.size == 0


def test_rows_are_in_due_order_whatever_order_they_ended_in(make_run: MakeRun) -> None:
    late = entry(1, due=50, tokens=[(60, 1), (65, 1)])
    run = make_run([late, entry(0, tokens=[(10, 1), (90, 1)])])
    samples = only(run)
    assert values_of(samples, "ttft").values.tolist() == pytest.approx([10, 10])
    gaps = values_of(samples, "itl")
    assert dict(zip(gaps.request.tolist(), gaps.values.tolist(), strict=True)) == pytest.approx({0: 80, 1: 5})


def test_engines_and_levels_are_kept_apart_in_the_manifest_s_order(make_run: MakeRun) -> None:
    engines = (EngineManifest(label="b", name="x"), EngineManifest(label="a", name="x"))
    run = make_run([entry(0), entry(0, engine="b", tokens=[(30, 1)])], engines=engines)
    assert [(samples.engine, values_of(samples, "ttft").values.tolist()) for samples in each_samples(run)] == [
        ("b", [pytest.approx(30)]),
        ("a", [pytest.approx(10)]),
    ]


def test_every_metric_explains_itself() -> None:
    assert all(metric.formula and metric.title and metric.unit for metric in METRICS)
