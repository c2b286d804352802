"""Checkpoints that are quantised before they are loaded: the layouts of others, and what GPTQ writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from llmbench.reference_engine.cli import app
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import CheckpointError, ConfigError
from llmbench.reference_engine.loaded import loaded_facts
from llmbench.reference_engine.models.base import CausalLM
from llmbench.reference_engine.models.loader import load_model
from llmbench.reference_engine.models.stored_weights import StoredFormat, pack_codes, read_format
from llmbench.reference_engine.models.synthetic import create
from llmbench.reference_engine.models.synthetic_text import lines
from llmbench.reference_engine.quantization import calibration
from llmbench.reference_engine.quantization.calibration import quantise_checkpoint
from llmbench.reference_engine.quantization.gptq import gptq
from llmbench.reference_engine.quantization.group_wise import QuantizedWeight, dequantize, quantize
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.tokenizer import Tokenizer

COMPRESSED: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 128}}},
}
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}


def test_codes_lie_as_others_write_them() -> None:
    """By hand: eight 4-bit codes in a number, the first in its lowest bits, -8 as 0."""
    codes = torch.arange(-8, 8, dtype=torch.int8).repeat(1, 4)
    packed = pack_codes("x", QuantizedWeight(codes, torch.ones(1, 1, dtype=torch.bfloat16), "int4"))
    assert packed["x.weight_packed"][0, :2].tolist() == [0x76543210, 0xFEDCBA98 - 2**32]
    assert packed["x.weight_shape"].tolist() == [1, 64]


@given(rows=st.integers(1, 4), groups=st.integers(1, 3), repeat=st.sampled_from([1, 2]), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_unpacking_undoes_packing(rows: int, groups: int, repeat: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-8, 8, (rows, 64 * groups * repeat), generator=generator, dtype=torch.int8)
    scales = torch.randn(rows, groups, generator=generator).bfloat16()
    parts = pack_codes("x", QuantizedWeight(codes, scales, "int4"))
    stored = StoredFormat("compressed-tensors", 4, 64 * repeat)
    found = stored.unpack("x", {name.removeprefix("x."): tensor for name, tensor in parts.items()})
    assert torch.equal(found.codes, codes)
    assert torch.equal(found.scales, scales.repeat_interleave(repeat, dim=1))


def as_autogptq_writes(codes: torch.Tensor, scales: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Codes [out, in] as AutoGPTQ's pack loop does it: one number after another, along the inputs."""
    per_number, middle = 32 // bits, 1 << (bits - 1)
    qweight = torch.zeros(codes.shape[1] // per_number, codes.shape[0], dtype=torch.int64)
    for index in range(codes.shape[1]):
        shifted = (codes[:, index].to(torch.int64) + middle) << (bits * (index % per_number))
        qweight[index // per_number] |= shifted
    zeros = sum((middle - 1) << (bits * place) for place in range(per_number))
    groups = scales.shape[1]
    return {
        "qweight": torch.where(qweight >= 2**31, qweight - 2**32, qweight).to(torch.int32),
        "scales": scales.T.half().contiguous(),
        "qzeros": torch.full((groups, codes.shape[0] // per_number), zeros, dtype=torch.int64).to(torch.int32),
        "g_idx": (torch.arange(codes.shape[1]) // (codes.shape[1] // groups)).to(torch.int32),
    }


@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_and_dense_checkpoints_of_the_same_weights_answer_alike(
    checkpoint: Path, tmp_path: Path, bits: int
) -> None:
    scheme = "int4" if bits == 4 else "int8"
    dense, stored = {}, {}
    for name, weight in load_file(checkpoint / "model.safetensors").items():
        if "_proj." not in name:
            dense[name] = stored[name] = weight
            continue
        quantised = quantize(weight, scheme)
        dense[name] = dequantize(quantised, weight.shape[1])
        parts = as_autogptq_writes(quantised.codes, quantised.scales, bits)
        stored |= {f"{name.removesuffix('.weight')}.{part}": tensor for part, tensor in parts.items()}
    folders = [copy_of(checkpoint, tmp_path / "dense", dense), copy_of(checkpoint, tmp_path / "stored", stored)]
    edit_config(folders[1], quantization_config={**GPTQ, "bits": bits})
    theirs, ours = (load_model(folder, torch.float32) for folder in folders)
    assert ours.stored_quantization == ("int4-weight-only" if bits == 4 else "int8-weight-only")
    for name, part in theirs.checkpoint_linears().items():
        if name != "lm_head":
            assert torch.equal(stored_weight(ours, name), part.weight)
    assert answer(folders[0]) == answer(folders[1])
    if bits == 4:  # asked for W4A8, the layers' inputs are rounded, and the head is to int4
        both = [answer(folder, quantization="int4") for folder in folders]
        assert both[0] == both[1]
    # Who compares engines reads in the log that this one is quantised, though no setting asked for it.
    engine = Engine(EngineConfig(model_path=folders[1], kernels="torch", num_threads=1))
    assert loaded_facts(engine.config, 64, engine.stored_quantization)["quantization"] == ours.stored_quantization


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"quant_method": "awq", "bits": 4}, "quant_method 'awq' is not supported; compressed-tensors and gptq are"),
        ({**GPTQ, "desc_act": True}, "desc_act is not supported"),
        ({**GPTQ, "bits": 3}, "symmetric weights of 3 bits are not supported; symmetric ones of 4 or 8 are"),
        ({**GPTQ, "sym": False}, "asymmetric weights of 4 bits"),
        ({**GPTQ, "group_size": 32}, "group_size 32 is not supported; multiples of 64 are"),
        ({**COMPRESSED, "format": "float-quantized"}, "format 'float-quantized' is not supported; pack-quantized is"),
        ({**COMPRESSED, "config_groups": {}}, "one config group of weights alone"),
        (
            {**COMPRESSED, "config_groups": {"group_0": {"weights": {}, "input_activations": {"num_bits": 8}}}},
            "a config group has input_activations; groups of weights alone",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_format({"quantization_config": config}, "config.json")


def test_zero_points_beside_the_middle_are_refused() -> None:
    parts = as_autogptq_writes(torch.zeros(8, 64, dtype=torch.int8), torch.ones(8, 1), 4)
    parts["qzeros"] += 1
    with pytest.raises(CheckpointError, match="x has zero points that are not the middle"):
        StoredFormat("gptq", 4, 64, 1).unpack("x", parts)


def test_gptq_loses_less_than_the_nearest_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 128, generator=generator) * 0.05
    # Inputs as layers have them: neighbours that say nearly the same, of unlike strength.
    mixing = torch.randn(128, 128, generator=generator) @ torch.diag(torch.logspace(0, -2, 128))
    x, fresh = (torch.randn(2000, 128, generator=generator) @ mixing.T for _ in range(2))
    found = dequantize(gptq(weight, x.T @ x), 128)
    nearest = dequantize(quantize(weight, "int4"), 128)
    lost, lost_nearest = (((fresh @ (w - weight).T) ** 2).mean() for w in (found, nearest))
    assert lost < 0.5 * lost_nearest


def test_a_calibrated_checkpoint_is_loaded_as_it_was_written(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(checkpoint)
    windows = [tokenizer.encode(line)[:40] for line in lines(20, 200, seed=1)]
    quantise_checkpoint(checkpoint, tmp_path / "int4", windows)
    stored = load_file(tmp_path / "int4" / "model.safetensors")
    assert not any(name.endswith("_proj.weight") for name in stored)
    size, before = (sum(f.stat().st_size for f in d.glob("*.safetensors")) for d in (tmp_path / "int4", checkpoint))
    assert size < before
    assert len(answer(tmp_path / "int4")) == 12
    with pytest.raises(CheckpointError, match="is quantised already"):
        quantise_checkpoint(tmp_path / "int4", tmp_path / "again", windows)
    with pytest.raises(ConfigError, match="weights are int4-weight-only already; quantization cannot be fp8"):
        Engine(EngineConfig(model_path=tmp_path / "int4", kernels="torch", quantization="fp8"))
    drafted = EngineConfig(
        model_path=checkpoint, speculative=tmp_path / "int4", kernels="torch", quantization="int8", kv_cache_gib=0.01
    )
    with pytest.raises(ConfigError, match=r"speculative = .*int4: its weights are int4.* already; .* cannot be int8"):
        Engine(drafted)


def test_the_command_calibrates_on_a_text_and_refuses_none(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines(20, 200, seed=1)))
    command = [
        "models",
        "quantize",
        str(checkpoint),
        "--out",
        str(tmp_path / "out"),
        "--windows",
        "2",
        "--window",
        "16",
    ]
    told = CliRunner().invoke(app, [*command, "--text", str(text)])
    assert told.exit_code == 0
    assert len(answer(Path(told.output.strip()))) == 12
    text.write_text("")
    command[4] = str(tmp_path / "of nothing")
    refused = CliRunner().invoke(app, [*command, "--text", str(text)])
    assert isinstance(refused.exception, CheckpointError)
    assert "is empty" in str(refused.exception)


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("{model}", "exists and is not an empty folder; give another one"),
        ("{model}/config.json", "exists and is not an empty folder; give another one"),
        ("/proc/x", "/proc/x cannot be written: "),
        ("{model}/config.json/x", "config.json/x cannot be written: "),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(
    out: str, reason: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("the text was read")

    monkeypatch.setattr(calibration, "calibration_windows", read)
    before = sorted(checkpoint.iterdir())
    out = out.format(model=checkpoint)
    told = CliRunner().invoke(app, ["models", "quantize", str(checkpoint), "--out", out])
    assert isinstance(told.exception, ConfigError)
    assert reason in str(told.exception)
    with pytest.raises(ConfigError, match=reason):
        quantise_checkpoint(checkpoint, Path(out), [[1, 2]])
    assert sorted(checkpoint.iterdir()) == before


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create("synthetic:llama-tiny", out=tmp_path_factory.mktemp("stored") / "checkpoint")


def answer(folder: Path, **settings: Any) -> list[int]:
    engine = Engine(EngineConfig(model_path=folder, kernels="torch", num_threads=1, **settings))
    engine.add_request("a", list(range(20, 50)), SamplingParams(max_tokens=12, temperature=0, ignore_eos=True))
    token_ids: list[int] = []
    while engine.has_work():
        token_ids += [token for output in engine.step() for token in output.new_token_ids]
    return token_ids


def copy_of(folder: Path, out: Path, tensors: dict[str, torch.Tensor]) -> Path:
    shutil.copytree(folder, out)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "model.safetensors")
    return out


def stored_weight(model: CausalLM, name: str) -> torch.Tensor:
    """What the codes that were loaded for a linear stand for."""
    part = model.checkpoint_linears()[name]
    return dequantize(part.linear.stored[part.rows.start], part.weight.shape[1])


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_gpt2_is_calibrated_and_loaded_though_its_matrices_lie_the_other_way(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=96, n_positions=64, n_embd=64, n_layer=2, n_head=2, initializer_range=0.2, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    ids = torch.randint(2, 96, (6, 32), generator=torch.Generator().manual_seed(1)).tolist()
    quantise_checkpoint(tmp_path / "gpt2", tmp_path / "int4", ids)
    stored = load_file(tmp_path / "int4" / "model.safetensors")
    assert sum(name.endswith(".weight_packed") for name in stored) == 2 * 4
    before, after = (load_model(tmp_path / name, torch.float32) for name in ("gpt2", "int4"))
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        name = f"transformer.h.1.{name}"
        weight = before.checkpoint_linears()[name].weight
        # Half a step of the codes, and what GPTQ moves a weight by to make up for others.
        assert (stored_weight(after, name) - weight).norm() < 0.2 * weight.norm()
    for kernels in ("torch", "auto"):
        engine = Engine(EngineConfig(model_path=tmp_path / "int4", kernels=kernels, max_model_len=64))
        engine.add_request("a", ids[0], SamplingParams(max_tokens=5, temperature=0, ignore_eos=True))
        tokens = []
        while engine.has_work():
            tokens += [token for output in engine.step() for token in output.new_token_ids]
        assert len(tokens) == 5
