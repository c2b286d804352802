"""Checkpoints that are made here: the same bytes everywhere, whole or not at all, and readable by transformers."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from llmbench.reference_engine.cli import app
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.models import synthetic
from llmbench.reference_engine.models.bundled import bundled_folder
from llmbench.reference_engine.models.loader import load_model, read_model_config


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def test_same_seed_same_bytes_in_any_process(tmp_path: Path) -> None:
    here = synthetic.create("synthetic:llama-tiny", seed=3, out=tmp_path / "here")
    command = [sys.executable, "-m", "llmbench.reference_engine", "models", "create", "synthetic:llama-tiny"]
    done = subprocess.run(
        [*command, "--seed", "3"],
        env={**os.environ, "PYTHONHASHSEED": "77", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    there = Path(done.stdout.splitlines()[-1])
    assert digest(here) == digest(there)
    assert there.is_relative_to(tmp_path / "cache")


def test_other_seed_other_weights_same_tokenizer(tmp_path: Path) -> None:
    one, two = (synthetic.create("llama-tiny", seed, tmp_path / str(seed)) for seed in (1, 2))
    assert (one / "model.safetensors").read_bytes() != (two / "model.safetensors").read_bytes()
    assert (one / "tokenizer.json").read_bytes() == (two / "tokenizer.json").read_bytes()


def test_several_at_once_make_one_whole_checkpoint(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(synthetic.create, ["synthetic:llama-tiny"] * 4))
    (folder,) = folders
    load_model(folder, torch.float32)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing half-made is left"


def test_interrupted_checkpoint_is_not_taken_for_a_finished_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "_write_weights", interrupted)
        with pytest.raises(KeyboardInterrupt):
            synthetic.create("synthetic:llama-tiny")
    load_model(synthetic.create("synthetic:llama-tiny"), torch.float32)


def test_shards_hold_what_one_file_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_model(synthetic.create("llama-tiny", out=tmp_path / "whole"), torch.float32)
    monkeypatch.setattr(synthetic, "MAX_SHARD_BYTES", 200_000)
    folder = synthetic.create("llama-tiny", out=tmp_path / "shards")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    sharded = load_model(folder, torch.float32)
    for name, view in whole.checkpoint_views().items():
        assert torch.equal(view, sharded.checkpoint_views()[name])


@pytest.mark.parametrize("name", synthetic.PRESETS)
def test_parameters_are_as_many_as_the_name_says(name: str) -> None:
    millions = {"llama-tiny": 0.23, "llama-20m": 20, "llama-150m": 150, "tinyllama-1.1b": 1100}[name]
    assert synthetic.num_parameters(synthetic.PRESETS[name]) / 1e6 == pytest.approx(millions, rel=0.05)


def test_transformers_reads_model_and_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import AutoConfig, AutoTokenizer

    folder = synthetic.create("llama-tiny", out=tmp_path / "made")
    ours, theirs = read_model_config(folder), AutoConfig.from_pretrained(folder)
    assert (ours.num_layers, ours.vocab_size) == (theirs.num_hidden_layers, theirs.vocab_size)
    assert ours.eos_token_ids == {theirs.eos_token_id}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == ours.vocab_size, "every id that the model can choose has a text"
    messages = [{"role": "user", "content": "Hi"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat == "<s><|user|>Hi</s><|assistant|>"


def test_unknown_name_tells_the_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean synthetic:llama-20m"):
        synthetic.create("synthetic:lama-20m")


def test_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="not an empty folder"):
        synthetic.create("synthetic:llama-tiny", out=tmp_path)


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        synthetic.create("synthetic:llama-tiny", out=tmp_path / "file" / "model")


def test_the_command_copies_a_bundled_model_where_it_is_told(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["models", "create", "bundled:python-draft", "--out", str(tmp_path / "draft")])
    assert told.output.strip() == str(tmp_path / "draft")
    assert digest(tmp_path / "draft") == digest(bundled_folder("bundled:python-draft"))
    there = CliRunner().invoke(app, ["models", "create", "bundled:python-draft"])
    assert there.output.strip() == str(bundled_folder("bundled:python-draft"))
    again = CliRunner().invoke(app, ["models", "create", "bundled:python-draft", "--out", str(tmp_path / "draft")])
    assert "is not an empty folder" in str(again.exception)


def test_the_command_makes_no_model_of_another_name(tmp_path: Path) -> None:
    for name in ("/nonexistent", str(tmp_path), "llama-tiny"):
        told = CliRunner().invoke(app, ["models", "create", name])
        assert isinstance(told.exception, ConfigError)
        assert f"{name!r} is no model that is made here" in str(told.exception)
