"""Decode graphs: padding never touches a sequence, and neither a replay nor a compiled step changes an answer."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmbench.reference_engine import graphs
from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.graphs import padded_sizes
from llmbench.reference_engine.models import synthetic
from llmbench.reference_engine.models.config import ModelConfig, RopeConfig
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.spans import no_spans
from llmbench.reference_engine.static_inputs import StaticInputs
from llmbench.reference_engine.step_batch import StepArrays, StepBatch

NUM_BLOCKS = 40


class Rerun:
    """Stands in for the recording of a GPU: computes anew from the same addresses, into the same result."""

    def __init__(self) -> None:
        self.num_rows: list[int] = []

    def record(self, compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        result = compute()

        def replay() -> torch.Tensor:
            self.num_rows.append(len(result))
            return result.copy_(compute())

        return replay


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.create("synthetic:llama-tiny", out=tmp_path_factory.mktemp("graphs") / "checkpoint")


def synthetic_config() -> ModelConfig:
    """Of a cache with one layer and one head of 8."""
    return ModelConfig(
        architecture="",
        vocab_size=7,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        max_position_embeddings=32,
        norm_eps=1e-5,
        rope=RopeConfig(),
        tie_word_embeddings=False,
        eos_token_ids=frozenset(),
    )


def make_engine(checkpoint: Path, **settings: object) -> Engine:
    config = {"kernels": "torch", "num_threads": 1, "num_blocks": NUM_BLOCKS, "max_num_seqs": 12, "max_model_len": 128}
    return Engine(EngineConfig(model_path=checkpoint, **{**config, **settings}))  # type: ignore[arg-type]


def answers(engine: Engine) -> dict[str, list[int]]:
    """Requests that come and go, so that batches grow and shrink between sizes, and blocks change hands."""
    rng = random.Random(2)
    waiting = [(f"r{i}", [rng.randrange(10, 1000) for _ in range(rng.randint(1, 30))]) for i in range(16)]
    tokens: dict[str, list[int]] = {name: [] for name, _ in waiting}
    while engine.has_work() or waiting:
        for name, prompt in waiting[: rng.randint(0, 4)]:
            engine.add_request(
                name, prompt, SamplingParams(max_tokens=rng.randint(1, 12), temperature=0, ignore_eos=True)
            )
            waiting.remove((name, prompt))
        for output in engine.step():
            tokens[output.request_id] += output.new_token_ids
    return tokens


def test_replayed_steps_answer_as_plain_ones_do(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Rerun()
    monkeypatch.setattr(graphs, "CudaRecorder", lambda: recorder)
    engine = make_engine(checkpoint)
    runner = engine._runner
    runner.kv_cache = KVCache(engine.model_config, NUM_BLOCKS + 1, engine.config.block_size, torch.float32)
    runner.record_graphs("cuda", max_num_seqs=12)
    assert answers(engine) == answers(make_engine(checkpoint))
    assert len(set(recorder.num_rows)) > 2, "the batches were to be of several sizes"


def test_recordings_share_the_memory_of_the_first_which_is_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torch's graphs. What is recorded ran before, on a stream that waits for the current one."""
    recorded: list[tuple[str, int, object]] = []
    current, side = Mock(name="current"), Mock(name="side")
    streams = [current]

    @contextlib.contextmanager
    def on(stream: Mock) -> Iterator[None]:
        stream.wait_stream.assert_called_once_with(current)
        streams.append(stream)
        yield
        streams.pop()

    @contextlib.contextmanager
    def recording(graph: Mock, pool: object) -> Iterator[None]:
        recorded.append(("begin", 0, pool))
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda: (side.reset_mock(), side)[1])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    graph = Mock()
    graph.pool.return_value = "memory of the first"
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)

    def step(batch: StepBatch) -> torch.Tensor:
        recorded.append(("side" if streams[-1] is side else "recorded", len(batch.token_ids), None))
        return torch.zeros(len(batch.token_ids), 7)

    cache = KVCache(synthetic_config(), 4, 16, torch.float32)
    steps = graphs.RecordedSteps(step, StaticInputs(4, 2, cache, None), [1, 2, 4], graphs.CudaRecorder())
    pools = [None, "memory of the first", "memory of the first"]
    assert recorded == [
        entry
        for size, pool in zip((4, 2, 1), pools, strict=True)
        for entry in (("side", size, None), ("begin", 0, pool), ("recorded", size, None))
    ]
    assert current.wait_stream.call_args_list == [call(side)] * 3
    # Three decodes are padded to four, and one graph is replayed; a prefill or five are none of theirs.
    rows = np.arange(5)
    spans = np.stack((rows, np.ones_like(rows), rows + 1), axis=1)

    def decodes(num_decodes: int, num_spans: int) -> StepArrays:
        tables = np.zeros((num_spans, 1), dtype=np.int64)
        return StepArrays(rows[:num_spans], rows[:num_spans], spans[:num_spans], tables, num_decodes)

    logits = steps.run(decodes(3, 3), no_spans)
    assert logits is not None
    assert logits.shape == (3, 7)
    graph.replay.assert_called_once_with()
    assert steps.run(decodes(2, 3), no_spans) is None
    assert steps.run(decodes(5, 5), no_spans) is None
    graph.replay.assert_called_once_with()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's compiler imports it
@pytest.mark.timeout(300)  # a cold cache and a busy machine make the compiler take minutes
def test_a_compiled_step_answers_as_a_plain_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sequence at a time and one layer: every further graph and layer takes another half a minute to compile."""
    one_layer = replace(synthetic.PRESETS["llama-tiny"], num_layers=1)
    monkeypatch.setitem(synthetic.PRESETS, "one-layer", one_layer)
    checkpoint = synthetic.create("synthetic:one-layer", out=tmp_path / "checkpoint")
    one = {"max_num_seqs": 1, "max_num_batched_tokens": 64}
    assert answers(make_engine(checkpoint, graphs="compile", **one)) == answers(make_engine(checkpoint, **one))


@given(st.integers(1, 600), st.data())
def test_a_batch_is_padded_by_fewer_than_eight_rows(max_num_seqs: int, data: st.DataObject) -> None:
    sizes = padded_sizes(max_num_seqs)
    n = data.draw(st.integers(1, max_num_seqs))
    padded = min(size for size in sizes if size >= n)
    assert n <= padded < n + 8
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == max_num_seqs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"graphs": "cuda"}, "graphs = cuda records what a GPU does, and the device is cpu"),
        ({"graphs": "cpu", "kernels": "torch"}, "graphs = cpu is for device = cpu and kernels = cpp"),
        ({"graphs": "compile", "kernels": "cpp"}, "graphs = compile is for device = cpu and kernels = torch"),
        ({"graphs": "metal"}, "graphs must be one of auto, off, cpu, cuda, compile; 'metal' was given"),
    ],
)
def test_graphs_that_cannot_be_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig(model_path=Path("anywhere"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kernels", "device", "recorded"),
    [
        ("cpp", "cpu", "cpu"),
        ("torch", "cpu", "off"),
        ("triton", "cuda", "cuda"),
        ("torch", "cuda", "off"),
        ("triton", "cpu", "off"),  # in Triton's interpreter
    ],
)
def test_steps_are_recorded_where_they_can_be(kernels: str, device: str, recorded: str) -> None:
    loaded = Mock()
    loaded.name = kernels
    assert graphs.resolve("auto", loaded, torch.device(device)) == recorded
    assert graphs.resolve("off", loaded, torch.device(device)) == "off"


@pytest.mark.parametrize(("kind", "owner"), [("cpu", "cpp"), ("cuda", "triton")])
def test_other_kernels_are_not_recorded(kind: Literal["cpu", "cuda"], owner: str) -> None:
    loaded = Mock()
    loaded.name = "torch"
    with pytest.raises(ConfigError, match=f"graphs = {kind} records the {owner} kernels, and .* are torch"):
        graphs.resolve(kind, loaded, torch.device(kind))
