"""What the engine says of itself, as data: names and texts of its gauges and totals, whoever shows them.

A `vllm:` name means what it means in vLLM, so that one scraper reads both; ours: `llmbench:`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llmbench.reference_engine.outputs import EngineStats

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TIME_TO_FIRST_TOKEN = ("vllm:time_to_first_token_seconds", "From a request's acceptance to its first token.")


class EngineMetric(NamedTuple):
    """`name` is the one that is shown, with `_total` for a counter."""

    name: str
    text: str
    value: Callable[[EngineStats], float]


GAUGES = (
    EngineMetric("vllm:num_requests_running", "Requests that hold KV blocks.", lambda stats: stats.num_running),
    EngineMetric(
        "vllm:num_requests_waiting", "Requests that wait for KV blocks or a place.", lambda stats: stats.num_waiting
    ),
    EngineMetric(
        "vllm:kv_cache_usage_perc",
        "Share of KV blocks in use; 1 is full.",
        lambda stats: stats.num_blocks_used / stats.num_blocks,
    ),
    EngineMetric("llmbench:kv_blocks_used", "KV blocks in use.", lambda stats: stats.num_blocks_used),
    EngineMetric("llmbench:kv_blocks", "KV blocks there are.", lambda stats: stats.num_blocks),
    EngineMetric(
        "llmbench:swap_blocks_used",
        "Blocks of host memory that preempted requests use.",
        lambda stats: stats.num_swap_blocks_used,
    ),
    EngineMetric(
        "llmbench:kv_blocks_resident",
        "KV blocks that may take memory: all of them without compaction.",
        lambda stats: stats.num_resident_blocks,
    ),
)
COUNTERS = (
    EngineMetric("vllm:prompt_tokens_total", "Prompt tokens of all requests.", lambda stats: stats.num_prompt_tokens),
    EngineMetric("vllm:generation_tokens_total", "Tokens generated.", lambda stats: stats.num_generated_tokens),
    EngineMetric(
        "vllm:num_preemptions_total",
        "Requests whose KV blocks were taken for an older one.",
        lambda stats: stats.num_preemptions,
    ),
    EngineMetric(
        "llmbench:fairness_overtakings_total",
        "Requests that went ahead of an earlier one, whose user had been served more; 0 without --fairness vtc.",
        lambda stats: stats.num_overtakings,
    ),
    EngineMetric(
        "vllm:prefix_cache_queries_total",
        "Prompt tokens looked up in the cache.",
        lambda stats: stats.num_cache_queried_tokens,
    ),
    EngineMetric(
        "vllm:prefix_cache_hits_total", "Prompt tokens found there.", lambda stats: stats.num_cache_hit_tokens
    ),
    EngineMetric(
        "vllm:spec_decode_num_draft_tokens_total", "Draft tokens verified.", lambda stats: stats.num_draft_tokens
    ),
    EngineMetric(
        "vllm:spec_decode_num_accepted_tokens_total", "Draft tokens accepted.", lambda stats: stats.num_accepted_tokens
    ),
    EngineMetric(
        "llmbench:evicted_blocks_total", "KV blocks that lost cached content.", lambda stats: stats.num_evicted_blocks
    ),
    EngineMetric(
        "llmbench:swapped_requests_total",
        "Preempted requests whose KV blocks went to host memory; the others are computed again.",
        lambda stats: stats.num_swapped_requests,
    ),
    EngineMetric("llmbench:moved_blocks_total", "KV blocks moved by compaction.", lambda stats: stats.num_moved_blocks),
    EngineMetric("llmbench:steps_total", "Steps computed.", lambda stats: stats.num_steps),
    EngineMetric(
        "llmbench:computed_tokens_total",
        "Tokens computed, recomputed ones included.",
        lambda stats: stats.num_computed_tokens,
    ),
    EngineMetric(
        "llmbench:aborted_requests_total", "Requests given up by their clients.", lambda stats: stats.num_aborted
    ),
)
