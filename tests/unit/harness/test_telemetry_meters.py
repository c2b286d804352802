"""What telemetry reads, each reader by itself: captured expositions, a stand-in for NVML, a made powercap folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines import metric_map
from llmbench.engines.metric_map import MetricMap
from llmbench.engines.wire import Endpoint
from llmbench.harness.cpu_energy import CpuEnergyMeter
from llmbench.harness.gpu_meter import GpuMeter
from llmbench.harness.prometheus import GapError, mapped, metrics_endpoint
from llmbench.harness.telemetry import visible_gpus
from llmbench.results.telemetry import SPEC_BY_NAME, Value

WIRE = Path(__file__).parents[2] / "data" / "wire"
MAPS = {name: each for name, each in vars(metric_map).items() if isinstance(each, MetricMap)}


def plain(values: list[Value]) -> dict[str, float]:
    return {value.metric: value.value for value in values if value.le is None}


def test_llama_cpp_s_own_names_are_found() -> None:
    told = plain(mapped((WIRE / "llamacpp" / "metrics.txt").read_text(), metric_map.LLAMACPP))
    assert told["generated_tokens"] > 0
    assert told["prompt_tokens"] > 0
    assert told["draft_tokens"] == told["accepted_tokens"] == told["requests_waiting"] == 0


def test_real_vllm_s_metrics_get_the_shared_names() -> None:
    values = mapped((WIRE / "vllm" / "metrics_after.txt").read_text(), metric_map.VLLM)
    told = plain(values)
    assert told["generated_tokens"] == 4127
    assert told["prompt_tokens"] == told["prefix_cache_queries"] == 8228
    assert told["prefix_cache_hits"] == told["preemptions"] == told["requests_waiting"] == 0
    assert told["ttft_count"] == 70
    assert told["ttft_sum"] == pytest.approx(18.81565499305725)
    assert told["queue_time_sum"] == pytest.approx(4.569496448997143)
    buckets = {value.le: value.value for value in values if value.metric == "ttft_bucket"}
    assert buckets[0.25] == 31
    assert buckets[float("inf")] == 70
    assert "draft_tokens" not in told  # it did not speculate: absent, not 0


def test_real_triton_s_metrics_get_the_shared_names() -> None:
    told = plain(mapped((WIRE / "triton" / "plain_metrics.txt").read_text(), metric_map.TRITON))
    assert told == {
        "requests_waiting": 0,  # of two models, summed
        "generated_tokens": 31,
        "queue_seconds": pytest.approx(655e-6),
        "requests_finished": 12,
    }


def test_tgi_s_tokens_are_the_sums_of_its_histograms() -> None:
    """The names are those of the router's sources; nothing was captured of the real one."""
    text = """
tgi_queue_size 3
tgi_batch_current_size 2
tgi_request_count 9
tgi_request_success 5
tgi_request_input_length_bucket{le="64"} 1
tgi_request_input_length_sum 700
tgi_request_input_length_count 7
tgi_request_generated_tokens_bucket{le="64"} 5
tgi_request_generated_tokens_sum 160
tgi_request_generated_tokens_count 5
tgi_request_skipped_tokens_sum 40
tgi_request_skipped_tokens_count 5
tgi_request_queue_duration_bucket{le="0.1"} 4
tgi_request_queue_duration_bucket{le="+Inf"} 7
tgi_request_queue_duration_sum 1.5
tgi_request_queue_duration_count 7
"""
    assert plain(mapped(text, metric_map.TGI)) == {
        "requests_waiting": 3,
        "requests_running": 2,
        "requests_finished": 5,
        "prompt_tokens": 700,
        "generated_tokens": 160,
        "accepted_tokens": 40,
        "queue_time_sum": 1.5,
        "queue_time_count": 7,
    }


@pytest.mark.parametrize("name", MAPS)
def test_maps_use_shared_names_alone(name: str) -> None:
    assert MAPS[name].samples.keys() <= {spec.name for spec in SPEC_BY_NAME.values() if spec.source == "metrics"}


def test_ranks_are_summed_shares_averaged_and_labels_picked() -> None:
    text = """
sglang:num_running_reqs{dp_rank="0"} 3
sglang:num_running_reqs{dp_rank="1"} 4
sglang:token_usage{dp_rank="0"} 0.2
sglang:token_usage{dp_rank="1"} 0.6
sglang:num_queue_reqs NaN
"""
    assert plain(mapped(text, metric_map.SGLANG)) == {"requests_running": 7, "kv_cache_usage": pytest.approx(0.4)}
    text = """
nv_trt_llm_request_metrics{model="m",request_type="waiting"} 5
nv_trt_llm_request_metrics{model="m",request_type="scheduled"} 2
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"} 6239
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"} 0.5
"""
    assert plain(mapped(text, metric_map.TRITON)) == {
        "requests_waiting": 5,
        "requests_running": 2,
        "kv_cache_usage": 0.5,
    }


@given(
    st.lists(
        st.one_of(
            st.text(max_size=40),
            st.builds(
                "{}{}".format,
                st.sampled_from(["vllm:num_requests_running", "vllm:time_to_first_token_seconds_bucket"]),
                st.text(st.sampled_from('{}="\\, le1.+Inf\t#eE-'), max_size=30),
            ),
        ),
        max_size=8,
    )
)
def test_whatever_a_server_says_is_values_or_a_gap(lines: list[str]) -> None:
    try:
        values = mapped("\n".join(lines), metric_map.VLLM)
    except GapError:
        return
    assert all(isinstance(value.value, float) for value in values)


def test_metrics_are_at_the_root_and_a_port_of_their_own_is_not_told_the_key() -> None:
    api = Endpoint("10.0.0.5", 8000, "/proxy/v1", tls=True, api_key="s3cret-key")
    beside = metrics_endpoint(api, metric_map.VLLM, None)
    assert (beside.port, beside.base_path, beside.tls, beside.api_key) == (8000, "/proxy", True, "s3cret-key")
    apart = metrics_endpoint(api, metric_map.TRITON, None)
    assert (apart.port, apart.base_path, apart.api_key) == (8002, "", None)
    assert metrics_endpoint(api, metric_map.TRITON, 9100).port == 9100


class FakeNvml(SimpleNamespace):
    """The functions of pynvml that are used, over two devices; NVML itself has not been run."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    class NVMLError(Exception):
        pass

    def __init__(self, lacks: tuple[str, ...] = ()) -> None:
        super().__init__(open=0)
        self._lacks = lacks

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index > 1:
            raise self.NVMLError("invalid argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return {"GPU-b": 1}[uuid]

    def _told(self, name: str, value: Any) -> Any:
        if name in self._lacks:
            raise self.NVMLError("not supported")
        return value

    def nvmlDeviceGetPowerUsage(self, device: int) -> int:
        return self._told("power", 250_000 + device)

    def nvmlDeviceGetTotalEnergyConsumption(self, device: int) -> int:
        return self._told("energy", 12_345_678)

    def nvmlDeviceGetClockInfo(self, device: int, kind: int) -> int:
        return self._told("clock", {1: 1980, 2: 2619}[kind])

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:
        return self._told("memory", SimpleNamespace(used=2**30))

    def nvmlDeviceGetUtilizationRates(self, device: int) -> SimpleNamespace:
        return self._told("utilisation", SimpleNamespace(gpu=87))


def test_gpus_are_read_in_base_units() -> None:
    nvml = FakeNvml()
    meter = GpuMeter(nvml)
    read = meter.read()
    assert [name for name, _ in read] == ["0", "1"]
    assert plain(read[1][1]) == {
        "power": 250.001,
        "energy": 12345.678,
        "sm_clock": 1.98e9,
        "memory_clock": 2.619e9,
        "memory_used": 2**30,
        "utilisation": 0.87,
    }
    meter.close()
    assert nvml.open == 0


def test_what_a_gpu_does_not_tell_is_absent_and_not_zero() -> None:
    [(_, values)] = GpuMeter(FakeNvml(lacks=("power", "energy")), ["0"]).read()
    assert plain(values).keys() == {"sm_clock", "memory_clock", "memory_used", "utilisation"}


def test_only_the_gpus_an_engine_may_use_are_read() -> None:
    assert [name for name, _ in GpuMeter(FakeNvml(), ["GPU-b"]).read()] == ["GPU-b"]
    assert [name for name, _ in GpuMeter(FakeNvml(), ["1", "7", "0"]).read()] == ["1"]  # as CUDA reads such a list
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1, GPU-b"}) == ("1", "GPU-b")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert visible_gpus({}) is None


def test_energy_goes_on_over_a_wrapped_counter_and_counts_no_part_twice(tmp_path: Path) -> None:
    def package(name: str, uj: int) -> Path:
        zone = tmp_path / name
        zone.mkdir(exist_ok=True)
        (zone / "energy_uj").write_text(f"{uj}\n")
        (zone / "max_energy_range_uj").write_text("10000000\n")
        return zone

    package("intel-rapl:0", 9_000_000)
    package("intel-rapl:1", 1_000_000)
    package("intel-rapl:0:0", 5_000_000)  # the cores of package 0
    meter = CpuEnergyMeter(tmp_path)
    package("intel-rapl:0", 500_000)
    package("intel-rapl:1", 1_250_000)
    package("intel-rapl:0:0", 6_000_000)
    [value] = meter.read()
    assert value == Value("cpu_energy", pytest.approx(1.5 + 0.25))
    assert CpuEnergyMeter(tmp_path / "none").read() == []
