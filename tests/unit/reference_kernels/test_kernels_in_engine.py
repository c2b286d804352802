"""The whole engine on the C++ kernels: quantised or not, a request's tokens do not depend on its company."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ConfigError, KernelsUnavailableError
from llmbench.reference_engine.kernels.contract import Kernels
from llmbench.reference_engine.models.checkpoint_layout import LlamaShape
from llmbench.reference_engine.models.synthetic import PRESETS, create
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.step_replay import ReplayedSteps

FORMATS: list[dict[str, Any]] = [
    {"dtype": "float32"},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "quantization": "int8"},
    {"dtype": "bfloat16", "quantization": "int4"},
    {"dtype": "bfloat16", "quantization": "fp8", "kv_cache_dtype": "fp8"},
    {"dtype": "bfloat16", "quantization": "int8-weight-only", "kv_cache_dtype": "int8"},
    {"dtype": "bfloat16", "quantization": "int4-weight-only"},
]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create("synthetic:llama-tiny", out=tmp_path_factory.mktemp("llama-tiny") / "checkpoint")


@pytest.fixture
def make_engine(checkpoint: Path, load_cpp: Callable[[str], Kernels]) -> Callable[..., Engine]:
    load_cpp("portable")  # skips where nothing compiles
    best = torch.ops.llmbench.instruction_sets().split(",")[0]
    torch.ops.llmbench.set_instruction_set(best)

    def make(**settings: Any) -> Engine:
        return Engine(EngineConfig(**{"model_path": checkpoint, "kernels": "cpp", "num_threads": 2, **settings}))

    return make


def answers(engine: Engine, prompts: dict[str, list[int]]) -> dict[str, list[int]]:
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    for name, prompt in prompts.items():
        engine.add_request(name, prompt, params)
    tokens: dict[str, list[int]] = {name: [] for name in prompts}
    while engine.has_work():
        for output in engine.step():
            tokens[output.request_id] += output.new_token_ids
        engine.check_integrity()
    return tokens


def test_replayed_steps_answer_as_plain_ones_do(make_engine: Callable[..., Engine]) -> None:
    """Batches that grow and shrink, verifications of drafts among them; each shape is recorded once and replayed."""
    prompts = {f"{i}": [5 + i, 6, 7, 8] * (1 + i) for i in range(6)}
    settings = {"speculative": "ngram", "max_num_seqs": 4, "max_num_batched_tokens": 16}
    replayed = make_engine(graphs="cpu", **settings)
    assert answers(replayed, prompts) == answers(make_engine(graphs="off", **settings), prompts)
    graphs = replayed._runner._graphs
    assert isinstance(graphs, ReplayedSteps)
    assert any(num_rows > num_spans for num_rows, num_spans in graphs._programs), "no verification was recorded"
    assert (1, 1) in graphs._programs


def test_replayed_steps_read_blocks_where_they_were_moved(make_engine: Callable[..., Engine]) -> None:
    """A burst of short answers, and one that goes on while its blocks move to the front."""
    rng = random.Random(4)
    asked = {f"{index}": ([rng.randrange(10, 1000) for _ in range(40)], 2) for index in range(8)}
    asked["long"] = ([rng.randrange(10, 1000) for _ in range(20)], 40)

    def tokens(**settings: Any) -> list[int]:
        engine = make_engine(graphs="cpu", block_size=4, **settings)
        for name, (prompt, max_tokens) in asked.items():
            engine.add_request(name, prompt, SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True))
        found, was_moved = [], False
        while engine.has_work():
            before = list(engine._sequences["long"].block_table) if "long" in engine._sequences else []
            found += [
                token for output in engine.step() if output.request_id == "long" for token in output.new_token_ids
            ]
            if "long" in engine._sequences and found:
                was_moved |= engine._sequences["long"].block_table[: len(before)] != before
        assert was_moved == ("compaction" in settings)
        return found

    assert tokens(compaction="idle", num_kept_blocks=30) == tokens()


def test_a_step_with_an_operator_that_is_not_recorded_is_refused(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(graphs="cpu")
    model = engine._runner.model
    logits = model.logits
    model.logits = lambda hidden: logits(hidden) + 1  # type: ignore[method-assign]
    engine.add_request("0", [5, 6, 7], SamplingParams(max_tokens=3, ignore_eos=True))
    engine.step()
    with pytest.raises(RuntimeError, match=r"aten\.add\.Tensor is part of the step"):
        engine.step()


def make_prompts() -> dict[str, list[int]]:
    rng = random.Random(3)
    return {f"r{index}": [rng.randrange(10, 1000) for _ in range(rng.randint(1, 90))] for index in range(9)}


@pytest.mark.parametrize("settings", FORMATS, ids=str)
def test_company_and_cuts_change_nothing(make_engine: Callable[..., Engine], settings: dict[str, Any]) -> None:
    """To the bit by construction, so that not even a near tie between two tokens can fall differently."""
    prompts = make_prompts()
    together = answers(make_engine(**settings), prompts)
    cut = make_engine(**settings, max_num_seqs=3, max_num_batched_tokens=7, block_size=16)
    assert answers(cut, prompts) == together
    alone = make_engine(**settings)
    assert {name: answers(alone, {name: prompt})[name] for name, prompt in prompts.items()} == together


def test_threads_change_nothing(make_engine: Callable[..., Engine]) -> None:
    prompts = make_prompts()
    one, three = (answers(make_engine(quantization="int8", num_threads=count), prompts) for count in (1, 3))
    assert one == three


@pytest.mark.parametrize("quantization", [None, "int8", "int4", "fp8", "int8-weight-only", "int4-weight-only"])
def test_first_tokens_equal_those_of_the_torch_kernels(
    make_engine: Callable[..., Engine], quantization: str | None
) -> None:
    """Later ones may part ways after a near tie; the first are the argmax of logits that agree within 1e-4."""
    prompts = make_prompts()
    ours = answers(make_engine(dtype="float32", quantization=quantization), prompts)
    theirs = answers(make_engine(dtype="float32", quantization=quantization, kernels="torch"), prompts)
    same = [ours[name][0] == theirs[name][0] for name in prompts]
    assert sum(same) >= len(same) - 1


def test_unknown_quantization_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="quantization must be one of int8, int4, fp8, int8-weight-only, int4-weight-only; 'fp4'"
    ):
        EngineConfig(model_path=Path("anywhere"), quantization="fp4")  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def wide_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenLLaMA 3B's heads of 100 components, and llama-tiny's vocabulary."""
    shape = LlamaShape(1024, 200, 64, 1, 2, 2, max_position_embeddings=512, dtype="float32")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(PRESETS, "wide-heads", shape)
        return create("synthetic:wide-heads", out=tmp_path_factory.mktemp("wide-heads") / "checkpoint")


def test_auto_takes_the_torch_kernels_for_heads_that_the_cpp_kernels_lack(
    wide_heads: Path, checkpoint: Path, make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    prompts = {"a": [5, 6, 7, 8]}
    with caplog.at_level(logging.WARNING):
        found = answers(make_engine(model_path=wide_heads, kernels="auto"), prompts)
    assert "Using the torch kernels" in caplog.text
    assert "the model's is 100" in caplog.text
    assert found == answers(make_engine(model_path=wide_heads, kernels="torch"), prompts)
    # A draft model runs on the same kernels as the model that it drafts for.
    drafted = make_engine(speculative=wide_heads, kernels="auto")
    assert answers(drafted, prompts) == answers(make_engine(kernels="torch"), prompts)
    with pytest.raises(KernelsUnavailableError, match=r"the model's is 100; kernels = torch \(--kernels torch\)"):
        make_engine(model_path=wide_heads)
    with pytest.raises(KernelsUnavailableError, match="the model's is 100"):
        make_engine(speculative=wide_heads)
