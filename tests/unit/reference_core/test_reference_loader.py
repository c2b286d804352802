"""Checkpoints that cannot be served are refused with a sentence that names the file and the fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.models.loader import load_model, read_model_config

Checkpoint = Callable[[str], Path]


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(checkpoint("gqa"), tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_sharded_checkpoint_loads_the_same_weights(
    checkpoint: Checkpoint, write_checkpoint: Callable[..., None], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, {}, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    single = load_model(checkpoint("gqa"), torch.float32).checkpoint_views()
    sharded = load_model(tmp_path, torch.float32).checkpoint_views()
    assert single.keys() == sharded.keys()
    assert all(torch.equal(single[name], sharded[name]) for name in single)


def test_weights_are_converted_to_the_asked_dtype(checkpoint: Checkpoint) -> None:
    exact = load_model(checkpoint("gqa"), torch.float32).checkpoint_views()
    rounded = load_model(checkpoint("gqa"), torch.bfloat16).checkpoint_views()
    assert all(torch.equal(exact[name].bfloat16(), rounded[name]) for name in exact)


def test_end_tokens_come_from_generation_config_first(folder: Path) -> None:
    edit_config(folder, eos_token_id=5)
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert read_model_config(folder).eos_token_ids == {5}
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 9]}')
    assert read_model_config(folder).eos_token_ids == {5, 9}


def test_missing_folder_and_missing_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_model(tmp_path / "absent", torch.float32)
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_model(tmp_path, torch.float32)


def test_broken_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as JSON"):
        load_model(folder, torch.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not supported; .* LlamaForCausalLM"),
        ({"architectures": None}, "architecture none is not supported"),
        ({"quantization_config": {"bits": 4}}, "quant_method None is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act must be silu; 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope type 'yarn' is not supported; .* llama3"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope type 'llama3' lacks factor, low_freq_factor"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) is not a multiple of num_key_value_heads \(3\)"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer; 'many'"),
        ({"intermediate_size": 100}, r"shape \[64, 96\]; config\.json asks for \[64, 100\]"),
        ({"num_hidden_layers": 3}, r"lacks model\.layers\.2\..* and 4 more"),
        ({"num_hidden_layers": 1}, r"has the unknown model\.layers\.1\."),
    ],
)
def test_config_that_cannot_be_honoured(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, torch.float32)


@pytest.mark.parametrize("kept_bytes", [0, 4, 100, -1000])
def test_truncated_safetensors(folder: Path, kept_bytes: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a readable safetensors file"):
        load_model(folder, torch.float32)


def test_absent_weights_and_absent_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors nor"):
        load_model(folder, torch.float32)
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"names model-00001-of-00001\.safetensors, not found"):
        load_model(folder, torch.float32)


def test_integer_weights_are_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(64, dtype=torch.int64)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds torch\.int64"):
        load_model(folder, torch.float32)
