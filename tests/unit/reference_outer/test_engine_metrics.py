"""What /metrics says of the engine: each name has the number that it is the name of."""

from __future__ import annotations

import re

import pytest

from llmbench.reference_engine.outputs import EngineStats
from llmbench.reference_engine.server.engine_metrics import COUNTERS, GAUGES
from llmbench.reference_engine.server.metrics import ServerMetrics

FIELDS = {
    "vllm:num_requests_running": "num_running",
    "vllm:num_requests_waiting": "num_waiting",
    "llmbench:kv_blocks_used": "num_blocks_used",
    "llmbench:kv_blocks": "num_blocks",
    "llmbench:swap_blocks_used": "num_swap_blocks_used",
    "llmbench:kv_blocks_resident": "num_resident_blocks",
    "vllm:prompt_tokens_total": "num_prompt_tokens",
    "vllm:generation_tokens_total": "num_generated_tokens",
    "vllm:num_preemptions_total": "num_preemptions",
    "vllm:prefix_cache_queries_total": "num_cache_queried_tokens",
    "vllm:prefix_cache_hits_total": "num_cache_hit_tokens",
    "vllm:spec_decode_num_draft_tokens_total": "num_draft_tokens",
    "vllm:spec_decode_num_accepted_tokens_total": "num_accepted_tokens",
    "llmbench:evicted_blocks_total": "num_evicted_blocks",
    "llmbench:swapped_requests_total": "num_swapped_requests",
    "llmbench:moved_blocks_total": "num_moved_blocks",
    "llmbench:steps_total": "num_steps",
    "llmbench:computed_tokens_total": "num_computed_tokens",
    "llmbench:aborted_requests_total": "num_aborted",
    "llmbench:fairness_overtakings_total": "num_overtakings",
}


@pytest.fixture
def stats() -> EngineStats:
    """A number of its own for each field."""
    return EngineStats(*range(10, 10 + len(EngineStats._fields)))


def shown(stats: EngineStats) -> dict[str, float]:
    text = ServerMetrics("m", lambda: stats).exposition().decode()
    found = re.findall(r'^(\S+){model_name="m"} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found}


@pytest.mark.parametrize("name", FIELDS)
def test_a_metric_is_the_engine_s_own_number(name: str, stats: EngineStats) -> None:
    assert shown(stats)[name] == getattr(stats, FIELDS[name])


def test_the_share_of_blocks_is_of_those_there_are(stats: EngineStats) -> None:
    assert shown(stats)["vllm:kv_cache_usage_perc"] == pytest.approx(stats.num_blocks_used / stats.num_blocks)


def test_no_metric_is_left_out() -> None:
    assert {metric.name for metric in (*GAUGES, *COUNTERS)} == {*FIELDS, "vllm:kv_cache_usage_perc"}
