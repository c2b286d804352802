"""The profile of an engine's steps: every part is there, in its place in time, with the work that it does."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmbench.harness.cli import app as llmbench_app
from llmbench.reference_engine.cli import app
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.errors import KernelsUnavailableError
from llmbench.reference_engine.kernels import dispatch
from llmbench.reference_engine.models.synthetic import create
from llmbench.reference_engine.profiling.chrome_trace import events
from llmbench.reference_engine.profiling.command import measure, show
from llmbench.reference_engine.profiling.roofline import Ceilings, measure_ceilings
from llmbench.reference_engine.profiling.step_profile import MODEL_PARTS, StepRow, by_kind, figures

LAYERS, HIDDEN, INNER, VOCAB, KV_WIDTH = 2, 64, 192, 1024, 32  # of synthetic:llama-tiny, see models/synthetic.py


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create("synthetic:llama-tiny", out=tmp_path_factory.mktemp("profile") / "checkpoint")


@pytest.fixture(params=[("torch", "off"), ("cpp", "off"), ("cpp", "cpu")], ids=" ".join)
def rows(request: pytest.FixtureRequest, checkpoint: Path) -> Sequence[StepRow]:
    """Three prompts of 20 tokens and 6 tokens after each, on each set of kernels, replayed and not."""
    kernels, graphs = request.param
    try:
        dispatch.load(kernels, 1)
    except KernelsUnavailableError as error:
        pytest.skip(str(error))
    config = EngineConfig(model_path=checkpoint, kernels=kernels, graphs=graphs, num_threads=1, max_num_seqs=3)
    return measure(config, 3, 20, 6)


def test_a_step_is_made_of_its_parts(rows: Sequence[StepRow]) -> None:
    assert [row.kind for row in rows] == ["prefill of 60 in a step of 3"] + ["decode of 3"] * 5
    for row in rows:
        names = [span.name for span in row.spans]
        assert names.count("attention") == names.count("MLP") == LAYERS
        assert {*MODEL_PARTS, "schedule", "prepare", "sample", "deliver", "detokenise"} == set(names)
        in_time = sorted(row.spans, key=lambda span: span.start_ns)
        assert row.start_ns <= in_time[0].start_ns
        assert in_time[-1].end_ns <= row.end_ns
        assert all(one.end_ns <= other.start_ns for one, other in pairwise(in_time)), "parts overlap"
        # Where a step is replayed, copying its inputs is a second part of preparing it.
        order = [name for name, _ in groupby(span.name for span in in_time)]
        assert order == [
            "schedule", "prepare", "embed", *["attention", "MLP"] * LAYERS, "head", "sample", "deliver", "detokenise",
        ]  # fmt: skip
        assert row.seconds()["rest"] >= 0


def test_work_is_that_of_the_shapes(rows: Sequence[StepRow]) -> None:
    prefill, decode = rows[0], rows[1]
    assert decode.work["MLP"].num_operations == 2 * LAYERS * 3 * HIDDEN * INNER * 3
    assert prefill.work["MLP"].num_operations == 20 * decode.work["MLP"].num_operations
    assert prefill.work["MLP"].num_bytes == decode.work["MLP"].num_bytes == 4 * LAYERS * 3 * HIDDEN * INNER
    assert decode.work["head"] == prefill.work["head"] == (4 * VOCAB * HIDDEN, 2 * VOCAB * HIDDEN * 3)
    # The next step sees one token more of each sequence, and reads its key and value.
    more, kv_bytes = rows[2].work["attention"], 2 * LAYERS * KV_WIDTH * 4
    assert more.num_operations - decode.work["attention"].num_operations == 3 * 4 * LAYERS * HIDDEN
    assert more.num_bytes - decode.work["attention"].num_bytes == 3 * kv_bytes
    # A prompt of 20 writes and reads 20 tokens of each sequence; after it a token is written and 21 are read.
    projections = LAYERS * (2 * HIDDEN + 2 * KV_WIDTH) * HIDDEN
    assert prefill.work["attention"].num_bytes == 4 * projections + 3 * (20 + 20) * kv_bytes
    assert decode.work["attention"].num_bytes == 4 * projections + 3 * (1 + 21) * kv_bytes
    pairs = 3 * sum(range(1, 21))
    assert prefill.work["attention"].num_operations == 60 * 2 * projections + 4 * LAYERS * HIDDEN * pairs


def test_a_window_bounds_what_is_read(tmp_path: Path) -> None:
    folder = create("synthetic:llama-tiny", out=tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    window = config | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 8}
    (folder / "config.json").write_text(json.dumps(window))
    settings = EngineConfig(model_path=folder, kernels="torch", num_threads=1, max_num_seqs=1)
    prefill, *decodes = measure(settings, 1, 20, 4)
    assert len({row.work["attention"] for row in decodes}) == 1
    weights = prefill.work["attention"].num_bytes - 2 * LAYERS * KV_WIDTH * 4 * (20 + 20)
    assert decodes[0].work["attention"].num_bytes == weights + 2 * LAYERS * KV_WIDTH * 4 * (1 + 8)


def test_the_shares_are_of_the_ceilings(rows: Sequence[StepRow], capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(by_kind(rows)["decode of 3"])["MLP"]
    assert found.bytes_per_s is not None
    assert found.operations_per_s is not None
    show(rows, Ceilings(bytes_per_s=4 * found.bytes_per_s, operations_per_s=10 * found.operations_per_s))
    decodes = capsys.readouterr().out.partition("decode of 3")[2].partition("\n\n")[0]
    (line,) = (line for line in decodes.splitlines() if line.startswith("MLP"))
    assert [word for word in line.split() if word.endswith("%")][-2:] == ["25%", "10%"]


def test_ceilings_are_what_the_machine_did() -> None:
    """A product of 1024 x 1024 takes 2 GFLOP: nothing reads or multiplies a thousand times as fast or as slowly."""
    try:
        ceilings = measure_ceilings(1)
    except KernelsUnavailableError as error:
        pytest.skip(str(error))
    assert 1e8 < ceilings.bytes_per_s < 1e13
    assert 1e8 < ceilings.operations_per_s < 1e15


def test_figures_are_of_steps_of_one_kind(rows: Sequence[StepRow]) -> None:
    found = figures(by_kind(rows)["decode of 3"])
    assert found["step"].share == 1
    assert sum(part.seconds for name, part in found.items() if name != "step") < 2 * found["step"].seconds
    assert found["MLP"].bytes_per_s is not None
    assert found["schedule"].bytes_per_s is None


def test_the_trace_has_every_span(rows: Sequence[StepRow]) -> None:
    slices = [event for event in events(rows) if event["ph"] == "X"]
    assert len(slices) == len(rows) + sum(len(row.spans) for row in rows)
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in slices)


def test_the_command_prints_tables_and_writes_traces(checkpoint: Path, tmp_path: Path) -> None:
    traces = {name: tmp_path / f"{name}.json" for name in ("trace", "torch-trace")}
    options = [text for name, path in traces.items() for text in (f"--{name}", str(path))]
    sizes = ["--batch", "2", "--tokens", "4", "--prompt-len", "8", "--threads", "1", "--kernels", "torch"]
    result = CliRunner().invoke(app, ["profile", "--model", str(checkpoint), *sizes, *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert "decode of 2: 3 steps" in result.stdout
    for path in traces.values():
        assert json.loads(path.read_text())["traceEvents"]


def test_llmbench_hands_the_model_to_the_engine(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReplacedError(Exception):
        pass

    def execv(_program: str, arguments: list[str]) -> None:
        raise ReplacedError(arguments[2:])

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(ReplacedError) as replaced:
        invoke(["profile", "--in-process", str(checkpoint), "--batch", "4", "--trace", "t.json"])
    asked = ["llmbench.reference_engine", "profile", "--model", str(checkpoint), "--trace", "t.json", "--batch", "4"]
    assert replaced.value.args[0] == asked


def test_an_unknown_option_is_refused_without_it() -> None:
    result = CliRunner().invoke(llmbench_app, ["profile", "mixed", "--bach", "4"])
    assert result.exit_code == 2
    assert "--bach is an option of --in-process, if of anything" in result.output


@pytest.mark.parametrize("option", [("--set", "model=other"), ("--engine", "reference"), ("--out", "out")])
def test_an_option_that_would_change_nothing_is_refused(tmp_path: Path, option: tuple[str, str]) -> None:
    (tmp_path / "manifest.json").touch()
    for arguments, why in ((["--in-process", "m"], "runs no workload"), ([str(tmp_path)], "is a run, and none is")):
        result = CliRunner().invoke(llmbench_app, ["profile", *arguments, *option])
        said = " ".join(result.output.replace("│", " ").split())  # a box that wraps
        assert result.exit_code == 2
        assert f"{option[0]} is for a workload that is run" in said
        assert why in said


def invoke(arguments: list[str]) -> None:
    CliRunner().invoke(llmbench_app, arguments, catch_exceptions=False)
