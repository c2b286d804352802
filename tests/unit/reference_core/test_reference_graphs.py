"""Decode graphs: padding never touches a sequence, and neither a replay nor a compiled step changes an answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
from llmbench.reference_engine.sampling import SamplingParams

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
