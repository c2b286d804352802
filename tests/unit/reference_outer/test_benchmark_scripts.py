"""What the scripts in benchmarks/ do with small models, single rounds, and what they cannot measure."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmbench.reference_engine.models.loader import read_model_config
from llmbench.reference_engine.models.sources import checkpoint_folder

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
import script


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # what is tested comes before it is used
    script.run(importlib.import_module(name).main)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("step_overhead", "--model"),
        ("decode", "--models"),
        ("gpu_decode", "--model"),
        ("served_throughput", "--model"),
        ("fairness", "--model"),
        ("compaction", "--model"),
        ("speculation", "--target"),
        ("speculation", "--draft"),
    ],
)
@pytest.mark.parametrize("model", ["bundled:nobody", "synthetic:nobody", "/no/folder"])
def test_a_model_that_there_is_not_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, option: str, model: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, name, option, model)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert model in line


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("step_overhead", ["--model", "bundled:python-draft", "--steps", "481"], "holds 512 tokens, so 480 at most"),
        ("gpu_decode", ["--model", "bundled:python-draft", "--steps", "365"], "holds 512 tokens, so 364 at most"),
        ("decode", ["--models", "bundled:python-draft", "--prefill", "512"], "holds 512 tokens, so 511 at most"),
        ("decode", ["--models", "bundled:python-draft", "--tokens", "480"], "holds 512 tokens, so 479 at most"),
        ("served_throughput", ["--model", "bundled:python-draft", "--tokens", "481"], "so 480 at most"),
        ("fairness", ["--model", "bundled:python-draft", "--tokens", "300"], "make 514"),
        ("compaction", ["--model", "bundled:python-draft", "--prompt-tokens", "500"], "make 564"),
        ("compaction", ["--requests", "33"], "32 run at once"),
        ("speculation", ["--prompts", "1", "--tokens", "385"], "make 513"),
        ("speculation", ["--rounds", "0"], "given 0, at least 1 is needed"),
    ],
)
def test_what_does_not_fit_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, name, *words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_one_prompt_and_one_round_are_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "speculation", "--prompts", "1", "--rounds", "1", "--tokens", "4", "--num-drafts", "2")
    shown = capsys.readouterr().out
    assert "1.00×" in shown
    assert "±" not in shown


@pytest.mark.skipif(sys.platform != "linux", reason="compaction takes Linux")
def test_compaction_takes_prompts_that_leave_little_of_the_context(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "bundled:python-draft", "--requests", "2", "--prompt-tokens", "450", "--tokens", "4")
    run(monkeypatch, "compaction", *words, "--rounds", "1")
    assert "| idle | " in capsys.readouterr().out


def test_a_server_that_ends_is_told_by_its_last_line() -> None:
    argv = [sys.executable, "-c", "import sys; sys.stderr.write('first\\nThe port is taken.\\n')"]
    told = pytest.raises(SystemExit, match=r"The server did not start: The port is taken\.")
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as server, told:
        script.port_of(server)


@pytest.mark.parametrize("model", ["bundled:python-target", "synthetic:llama-tiny"])
def test_a_step_reads_every_layer_and_the_head(model: str) -> None:
    """One of them has a head of its own, the other has the embedding's weights as its head."""
    folder = checkpoint_folder(model)
    config = read_model_config(folder)
    attention = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim * config.hidden_size
    layer = attention + 3 * config.hidden_size * config.intermediate_size
    assert script.num_linear_weights(folder) == config.num_layers * layer + config.vocab_size * config.hidden_size


def test_packed_weights_are_not_counted(tmp_path: Path) -> None:
    shutil.copy(checkpoint_folder("bundled:python-draft") / "config.json", tmp_path)
    packed = {"model.layers.0.mlp.up_proj.weight_packed": torch.zeros(4, 4, dtype=torch.int32)}
    save_file(packed, tmp_path / "model.safetensors")
    assert script.num_linear_weights(tmp_path) is None
