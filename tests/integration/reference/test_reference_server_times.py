"""The histograms of where a request's time went, of requests whose time is known, over a real socket."""

from __future__ import annotations

import json
import time

import pytest

from llmbench.engines.metric_map import REFERENCE
from llmbench.harness.prometheus import mapped

BODY = {"model": "tiny", "prompt": [5, 6, 7], "temperature": 0, "ignore_eos": True}
PARTS = ("queue", "prefill", "decode", "inference")


def told(server) -> dict[str, float]:
    """Sums in s, and the numbers of requests behind them."""
    names = {part: f"vllm:request_{part}_time_seconds" for part in PARTS} | {"e2e": "vllm:e2e_request_latency_seconds"}
    return {
        f"{part}_{what}": server.gauge(f"{name}_{what}") for part, name in names.items() for what in ("sum", "count")
    }


def grown(server, before: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in told(server).items()}


@pytest.fixture(scope="module")
def one_seat(start_server, tiny_model):
    return start_server(tiny_model, "--max-num-seqs", "1")


def test_parts_of_a_request_add_up_to_what_its_client_sees(one_seat) -> None:
    before = told(one_seat)
    sent = time.perf_counter()
    connection = one_seat.connect()
    connection.request("POST", "/v1/completions", json.dumps({**BODY, "max_tokens": 60, "stream": True}))
    response = connection.getresponse()
    response.readline()
    first = time.perf_counter()
    response.read()
    done = time.perf_counter()
    connection.close()
    seen = grown(one_seat, before)
    assert [seen[f"{part}_count"] for part in PARTS] == [1] * 4
    assert seen["inference_sum"] == pytest.approx(seen["prefill_sum"] + seen["decode_sum"], abs=1e-6)
    assert 0 < seen["prefill_sum"] < first - sent
    # 59 steps lie between first and last token; the client sees both later, and neither much later than the other.
    assert seen["decode_sum"] == pytest.approx(done - first, rel=0.5)
    assert seen["queue_sum"] + seen["inference_sum"] < seen["e2e_sum"] < done - sent


def test_waiting_for_a_seat_is_queue_time_and_nothing_else(one_seat) -> None:
    before = told(one_seat)
    holder = one_seat.connect()
    holder.request("POST", "/v1/completions", json.dumps({**BODY, "max_tokens": 300, "stream": True}))
    response = holder.getresponse()
    response.readline()
    sent = time.perf_counter()
    waiter = one_seat.connect()
    waiter.request("POST", "/v1/completions", json.dumps({**BODY, "max_tokens": 1}))
    response.read()
    freed = time.perf_counter()
    assert waiter.getresponse().read()
    done = time.perf_counter()
    holder.close()
    waiter.close()
    seen = grown(one_seat, before)
    assert seen["queue_count"] == 2
    assert 0.5 * (freed - sent) < seen["queue_sum"] < done - sent
    # The holder's tokens, decoded while the other waited: its single token has no time between tokens.
    assert seen["decode_sum"] > 0.5 * (freed - sent)
    assert seen["prefill_sum"] < done - freed + 0.5 * (freed - sent)


def test_harness_reads_them_under_the_names_that_all_engines_share(server) -> None:
    assert server.ask("/v1/completions", {**BODY, "max_tokens": 4}).status == 200
    values = mapped(server.ask("/metrics").body.decode(), REFERENCE)
    read = {value.metric: value.value for value in values if value.le is None}
    shown = told(server)
    for part in PARTS:
        assert read[f"{part}_time_sum"] == pytest.approx(shown[f"{part}_sum"])
        assert read[f"{part}_time_count"] == shown[f"{part}_count"] > 0


@pytest.mark.parametrize(
    ("fields", "num_requests"),
    [
        ({"max_tokens": 4}, 1),
        ({"max_tokens": 4, "n": 3, "temperature": 1, "seed": 1}, 3),
        ({"max_tokens": 4, "prompt": ["a", "b"]}, 2),
        ({"max_tokens": 4, "use_beam_search": True, "best_of": 3, "n": 2}, 1),
    ],
    ids=str,
)
def test_every_request_to_the_engine_is_counted_once(server, fields, num_requests) -> None:
    before = told(server)
    assert server.ask("/v1/completions", {**BODY, **fields}).status == 200
    seen = grown(server, before)
    assert [seen[f"{part}_count"] for part in PARTS] == [num_requests] * 4
    # Four tokens come in four steps, those of beams too.
    assert min(seen["prefill_sum"], seen["decode_sum"]) > 0
    assert seen["queue_sum"] + seen["inference_sum"] < seen["e2e_sum"]


def test_stop_string_ends_the_time_and_a_client_that_left_is_not_counted(server) -> None:
    whole = server.ask("/v1/completions", {**BODY, "max_tokens": 60, "logprobs": 0}).json()["choices"][0]
    stop = next(text for text in whole["logprobs"]["tokens"][5:] if text.isascii() and text.strip())
    before = told(server)
    answer = server.ask("/v1/completions", {**BODY, "max_tokens": 60, "stop": stop}).json()
    assert answer["choices"][0]["stop_reason"] == stop
    seen = grown(server, before)
    assert [seen[f"{part}_count"] for part in PARTS] == [1] * 4
    connection = server.connect()
    connection.request("POST", "/v1/completions", json.dumps({**BODY, "max_tokens": 480, "stream": True}))
    connection.getresponse().readline()
    connection.close()
    server.wait_for("vllm:num_requests_running", 0)
    assert grown(server, before) == seen
