"""What an engine says of itself to Prometheus, as data: its own names, by those that all engines share here.

The shared names and their units are the table of `results/telemetry.py`. Counters and gauges of several series (ranks,
models) are summed, shares averaged, and histograms summed bucket by bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MetricName:
    """A sample as the exposition spells it (`_total` and `_sum` included; for a histogram without `_bucket`).

    Only series with all of `labels` count. `scale` turns the engine's unit into ours.
    """

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class MetricMap:
    """`samples` has, by shared name, the engine's names in order of preference: the first that is there counts.

    They are read at `path`, on `port` where that is not the port that requests go to.
    """

    samples: Mapping[str, tuple[MetricName, ...]]
    path: str = "/metrics"
    port: int | None = None


# vLLM's names for what every engine has; those that came after it took most of them, with a prefix of their own.
_USUAL: Mapping[str, str] = {
    "requests_running": "num_requests_running",
    "requests_waiting": "num_requests_waiting",
    "prompt_tokens": "prompt_tokens_total",
    "generated_tokens": "generation_tokens_total",
    "ttft": "time_to_first_token_seconds",
    "queue_time": "request_queue_time_seconds",
    "prefill_time": "request_prefill_time_seconds",
    "decode_time": "request_decode_time_seconds",
    "inference_time": "request_inference_time_seconds",
}


def _named(prefix: str, **names: str | tuple[str, ...]) -> dict[str, tuple[MetricName, ...]]:
    """`names` under `prefix`, and of _USUAL what they do not name otherwise."""
    return _only(prefix, **{**_USUAL, **names})


def _only(prefix: str, **names: str | tuple[str, ...]) -> dict[str, tuple[MetricName, ...]]:
    """`names` under `prefix`, and no others."""
    return {
        shared: tuple(MetricName(prefix + name) for name in ((own,) if isinstance(own, str) else own))
        for shared, own in names.items()
    }


_VLLM_NAMES = _named(
    "vllm:",
    kv_cache_usage=("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    prefix_cache_queries=("prefix_cache_queries_total", "gpu_prefix_cache_queries_total"),
    prefix_cache_hits=("prefix_cache_hits_total", "gpu_prefix_cache_hits_total"),
    preemptions="num_preemptions_total",
    draft_tokens="spec_decode_num_draft_tokens_total",
    accepted_tokens="spec_decode_num_accepted_tokens_total",
)

# Captured from vLLM 0.32; the names with gpu_ are those of releases before 0.10.
VLLM = MetricMap(_VLLM_NAMES)

# The bundled engine takes vLLM's names for what means the same.
REFERENCE = MetricMap(_VLLM_NAMES)

# Captured from Triton 2.51, but for TensorRT-LLM's names, which are from its documentation. vLLM's backend adds vLLM's
# names where REPORT_CUSTOM_METRICS is set.
TRITON = MetricMap(
    {
        **_VLLM_NAMES,
        "requests_running": (
            MetricName("vllm:num_requests_running"),
            MetricName("nv_trt_llm_request_metrics", (("request_type", "scheduled"),)),
        ),
        "requests_waiting": (
            MetricName("vllm:num_requests_waiting"),
            MetricName("nv_trt_llm_request_metrics", (("request_type", "waiting"),)),
            MetricName("nv_inference_pending_request_count"),
        ),
        "kv_cache_usage": (
            MetricName("vllm:kv_cache_usage_perc"),
            MetricName("nv_trt_llm_kv_cache_block_metrics", (("kv_cache_block_type", "fraction"),)),
        ),
        "queue_seconds": (MetricName("nv_inference_queue_duration_us", scale=1e-6),),
        "requests_finished": (MetricName("nv_inference_request_success"),),
    },
    port=8002,
)

# From TGI's sources, 3.3.6. Its histograms of tokens have the totals in their sums.
TGI = MetricMap(
    _only(
        "tgi_",
        requests_running="batch_current_size",
        requests_waiting="queue_size",
        prompt_tokens="request_input_length_sum",
        generated_tokens="request_generated_tokens_sum",
        accepted_tokens="request_skipped_tokens_sum",
        requests_finished="request_success",
        queue_time="request_queue_duration",
        inference_time="request_inference_duration",
    )
)

# From SGLang's sources and documentation; needs --enable-metrics.
SGLANG = MetricMap(
    _named(
        "sglang:",
        requests_running="num_running_reqs",
        requests_waiting="num_queue_reqs",
        kv_cache_usage="token_usage",
        prefix_cache_queries="prompt_tokens_total",
        prefix_cache_hits="cached_tokens_total",
        queue_time="queue_time_seconds",
    )
)

# Captured from llama.cpp's server of October 2026; needs --metrics. Older ones have kv_cache_usage_ratio. Its prompt
# tokens are without those that it found in its cache.
LLAMACPP = MetricMap(
    _only(
        "llamacpp:",
        requests_running="requests_processing",
        requests_waiting="requests_deferred",
        kv_cache_usage="kv_cache_usage_ratio",
        prompt_tokens="prompt_tokens_total",
        generated_tokens="tokens_predicted_total",
        draft_tokens="spec_decode_num_draft_tokens_total",
        accepted_tokens="spec_decode_num_accepted_tokens_total",
    )
)

# From the sources of TensorRT-LLM; needs return_perf_metrics and enable_iter_perf_stats.
TRTLLM = MetricMap(
    _named(
        "trtllm_",
        requests_running=("num_requests_running", "num_active_requests"),
        requests_waiting=("num_requests_waiting", "server_queue_length"),
        kv_cache_usage="kv_cache_utilization",
        prefix_cache_queries="prompt_tokens_total",
        prefix_cache_hits="prompt_cached_tokens_total",
        draft_tokens="spec_decode_drafted_tokens_total",
        accepted_tokens="spec_decode_accepted_tokens_total",
    ),
    path="/prometheus/metrics",
)

# From the sources of LMDeploy; needs --enable-metrics.
LMDEPLOY = MetricMap(_named("lmdeploy:", kv_cache_usage="gpu_cache_usage_perc"))

_ALL = (VLLM, SGLANG, TRTLLM, TGI, LMDEPLOY, LLAMACPP, TRITON)

# For a server of which only its metrics' address is known: whatever of all these names it has.
ANY = MetricMap(
    {
        shared: tuple(dict.fromkeys(name for each in _ALL for name in each.samples.get(shared, ())))
        for shared in dict.fromkeys(shared for each in _ALL for shared in each.samples)
    }
)
