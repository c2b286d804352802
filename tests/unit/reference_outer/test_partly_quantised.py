"""Checkpoints of which some linears are stored as codes and others in floats, against transformers on the same weights.

transformers gets the weights that the codes stand for, each code times its scale, in float32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmbench.reference_engine.config import EngineConfig, QuantizationName
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.kernels.torch_kernels import TorchKernels, TorchLinear
from llmbench.reference_engine.layers.linear import FusedLinear
from llmbench.reference_engine.models.loader import load_model
from llmbench.reference_engine.models.stored_weights import describe, pack_codes
from llmbench.reference_engine.quantization import calibration
from llmbench.reference_engine.quantization.calibration import quantise_checkpoint
from llmbench.reference_engine.quantization.group_wise import dequantize, quantize
from llmbench.reference_engine.sampling import SamplingParams

VOCABULARY = 160
# Neither W4A16 nor W8A16 rounds an input: what is left is the order of float32 sums.
TOLERANCE = 1e-4
PROMPT = [(index * 37) % VOCABULARY for index in range(30)]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"num_key_value_heads": 2}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt_neox": ("GPTNeoXForCausalLM", {}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family to a checkpoint of it in float32 that transformers wrote."""
    transformers = pytest.importorskip("transformers")
    folders: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in folders:
            name, settings = FAMILIES[family]
            sizes = {
                "vocab_size": VOCABULARY,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": 64,
                "bos_token_id": 0,
                "eos_token_id": 0,
            }
            torch.manual_seed(5)
            model_class = getattr(transformers, name)
            model = model_class(model_class.config_class(**sizes, **settings)).eval()
            for parameter_name, parameter in model.named_parameters():
                if parameter.dim() > 1 or parameter_name.endswith("bias"):
                    torch.nn.init.normal_(parameter, std=0.2)
            folders[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(folders[family])
        return folders[family]

    return make


def partly_quantised(folder: Path, out: Path, scheme: QuantizationName, ignored: str) -> tuple[Path, Path]:
    """Two copies: linears whose names hold none of `ignored` as codes; and all of what they stand for in floats."""
    stored: dict[str, torch.Tensor] = {}
    plain: dict[str, torch.Tensor] = {}
    ignore = ["lm_head"]
    for name, weight in load_file(folder / "model.safetensors").items():
        linear = name.removesuffix(".weight")
        if "_proj" in name and (not ignored or ignored not in name):
            codes = quantize(weight, scheme)
            stored |= pack_codes(linear, codes)
            plain[name] = dequantize(codes, weight.shape[1]).contiguous()
        else:
            stored[name] = plain[name] = weight
            ignore += [linear] * ("_proj" in name)
    settings = {"quantization_config": describe(scheme, ignore)}
    return written(folder, out / "stored", stored, settings), written(folder, out / "plain", plain, {})


def written(folder: Path, out: Path, tensors: dict[str, torch.Tensor], settings: dict[str, Any]) -> Path:
    out.mkdir()
    shutil.copy(folder / "config.json", out)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    edit_config(out, **settings)
    return out


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def largest_difference(ours: Path, theirs: Path, **settings: Any) -> float:
    """Of the log-probabilities of the five likeliest tokens, over a prompt's next four."""
    from transformers import AutoModelForCausalLM

    engine = Engine(EngineConfig(model_path=ours, num_threads=1, max_model_len=64, **settings))
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, logprobs=5)
    engine.add_request("a", PROMPT, params)
    tokens: list[int] = []
    found: list[Any] = []
    while engine.has_work():
        for output in engine.step():
            tokens += output.new_token_ids
            found += output.logprobs or []
    model = AutoModelForCausalLM.from_pretrained(theirs, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPT + tokens])).logits[0].log_softmax(-1)[len(PROMPT) - 1 :]
    assert len(found) == 4
    return max(
        abs(float(row[token]) - value) for row, each in zip(expected, found, strict=False) for token, value in each.top
    )


@pytest.mark.parametrize("ignored", ["", "k_proj", "gate_proj", "down_proj", "layers.0."])
@pytest.mark.parametrize("scheme", ["int4", "int8-weight-only"])
def test_each_linear_is_computed_with_as_it_is_stored(
    scheme: QuantizationName, ignored: str, made: Callable[[str], Path], tmp_path: Path
) -> None:
    stored, plain = partly_quantised(made("llama"), tmp_path, scheme, ignored)
    for kernels in ("torch", "auto"):
        assert largest_difference(stored, plain, kernels=kernels) < TOLERANCE


def test_what_is_stored_in_floats_stays_so_and_the_rest_is_codes(made: Callable[[str], Path], tmp_path: Path) -> None:
    """The C++ kernels' bytes tell: a code takes one, a float32 four."""
    stored, _ = partly_quantised(made("llama"), tmp_path, "int8-weight-only", "k_proj")
    engine = Engine(EngineConfig(model_path=stored, kernels="auto", num_threads=1))
    model = engine._runner.model
    if engine._kernels.name != "cpp":
        pytest.skip("the C++ kernels are not built here")
    attention = model.layers[0].attention
    assert attention.qkv.weight_bytes == 4 * attention.qkv.num_weights
    assert attention.out.weight_bytes < 1.1 * attention.out.num_weights
    assert model.head.weight_bytes >= 4 * model.head.num_weights


def test_asked_for_a_format_the_rest_is_rounded_to_it_and_stored_codes_are_kept() -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(96, 128, generator=generator)
    # Codes that rounding to the nearest would not find again: no group has one of the largest magnitude.
    codes = quantize(3 * weight[32:64], "int4-weight-only")
    codes = codes._replace(codes=codes.codes.clamp(-3, 3))
    linear = FusedLinear(128, [32, 32, 32], bias=False, dtype=torch.float32)
    parts = linear.parts("q", "k", "v")
    for name, rows in zip("qkv", weight.split(32), strict=True):
        parts[name].weight.copy_(rows)
    parts["k"].store(codes)
    linear.prepare(TorchKernels(1, torch.device("cpu")), "int4")
    kernel = linear.kernel
    assert isinstance(kernel, TorchLinear)
    assert kernel.rounds_activations
    q, k, v = kernel.weight.split(32)
    assert torch.equal(k, dequantize(codes, 128))
    for found, rows in ((q, weight[:32]), (v, weight[64:])):
        assert torch.equal(found, dequantize(quantize(rows, "int4"), 128))


@pytest.mark.parametrize("asked", [None, "int4"])
def test_inputs_are_rounded_only_if_that_is_asked_for(asked: QuantizationName | None) -> None:
    codes = quantize(torch.randn(32, 128, generator=torch.Generator().manual_seed(2)), "int4-weight-only")
    linear = FusedLinear(128, [32, 32], bias=False, dtype=torch.float32)
    for part in linear.parts("gate", "up").values():
        part.store(codes)
    linear.prepare(TorchKernels(1, torch.device("cpu")), asked)
    assert isinstance(linear.kernel, TorchLinear)
    assert linear.kernel.rounds_activations is (asked == "int4")
    assert torch.equal(linear.kernel.weight, dequantize(codes, 128).repeat(2, 1))


def test_codes_of_another_shape_are_refused_by_name(made: Callable[[str], Path], tmp_path: Path) -> None:
    stored, _ = partly_quantised(made("llama"), tmp_path, "int4", "")
    tensors = load_file(stored / "model.safetensors")
    for part in ("weight_packed", "weight_scale"):
        name = f"model.layers.0.self_attn.k_proj.{part}"
        tensors[name] = tensors[name].repeat(2, 1)
    save_file(tensors, stored / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"k_proj has shape \[64, 64\]; config.json asks for \[32, 64\]"):
        load_model(stored, torch.float32)


def plainly(folder: Path, out: Path, *, transposed: bool) -> Path:
    """What the codes of a W4A16 checkpoint stand for, unpacked here by hand."""
    tensors = load_file(folder / "model.safetensors")
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        linear, _, part = name.rpartition(".")
        if part == "weight_packed":
            eights = torch.stack([(tensor.long() >> (4 * place)) & 15 for place in range(8)], dim=-1)
            groups = (eights.flatten(1) - 8).float().view(len(tensor), -1, 64)
            weight = (groups * tensors[f"{linear}.weight_scale"].float().unsqueeze(-1)).flatten(1)
            plain[f"{linear}.weight"] = (weight.T if transposed else weight).contiguous()
        elif part not in ("weight_scale", "weight_shape"):
            plain[name] = tensor.float()
    return written(folder, out, plain, {"quantization_config": None})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_of_a_layer_is_calibrated_and_answers_as_its_codes_say(
    family: str, made: Callable[[str], Path], tmp_path: Path
) -> None:
    windows = torch.randint(0, VOCABULARY, (6, 40), generator=torch.Generator().manual_seed(1)).tolist()
    quantise_checkpoint(made(family), tmp_path / "int4", windows)
    names = load_file(tmp_path / "int4" / "model.safetensors")
    assert not [
        name
        for name, each in names.items()
        if ".0." in name and each.is_floating_point() and each.dim() > 1 and not name.endswith(".weight_scale")
    ]
    assert sum(name.endswith(".weight_packed") for name in names) == 2 * (7 if family == "llama" else 4)
    # By this list other engines know that the head has no codes.
    description = json.loads((tmp_path / "int4" / "config.json").read_text())["quantization_config"]
    assert description["ignore"] == ["embed_out" if family == "gpt_neox" else "lm_head"]
    plain = plainly(tmp_path / "int4", tmp_path / "plain", transposed=family == "gpt2")
    edit_config(plain, tie_word_embeddings=family == "gpt2")
    before, after = (load_file(folder / "model.safetensors") for folder in (made(family), plain))
    for name, weight in before.items():  # half a step of a code, and what others are made up for
        assert (after[name] - weight).norm() <= 0.2 * weight.norm(), name
    for kernels in ("torch", "auto"):
        assert largest_difference(tmp_path / "int4", plain, kernels=kernels) < TOLERANCE


def test_a_linear_that_no_name_of_the_checkpoint_stands_for_is_not_left_out_in_silence(
    made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_one(folder: Path, dtype: torch.dtype) -> Any:
        model = load_model(folder, dtype)
        linears = model.checkpoint_linears()
        del linears["model.layers.1.mlp.down_proj"]
        model.checkpoint_linears = lambda: linears  # type: ignore[method-assign]
        return model

    monkeypatch.setattr(calibration, "load_model", without_one)
    with pytest.raises(CheckpointError, match="1 of the layers' linears"):
        quantise_checkpoint(made("llama"), tmp_path / "int4", [PROMPT])
    assert not (tmp_path / "int4").exists()


def test_windows_longer_than_the_context_are_cut_to_it(made: Callable[[str], Path], tmp_path: Path) -> None:
    quantise_checkpoint(made("gpt2"), tmp_path / "long", [[1, 2] * 100])
    quantise_checkpoint(made("gpt2"), tmp_path / "context", [[1, 2] * 32])
    long, context = (load_file(tmp_path / name / "model.safetensors") for name in ("long", "context"))
    assert long.keys() == context.keys()
    assert all(torch.equal(tensor, context[name]) for name, tensor in long.items())


@pytest.mark.parametrize("ignored", ["", "k_proj"])
@pytest.mark.parametrize("quantization", [None, "int4"])
def test_codes_meet_the_weights_where_new_tensors_land(
    quantization: QuantizationName | None, ignored: str, made: Callable[[str], Path], tmp_path: Path
) -> None:
    """As with --device cuda: files are read into host memory. Operations on two devices at once raise."""
    stored, _ = partly_quantised(made("llama"), tmp_path, "int4", ignored)
    with torch.device("meta"):
        model = load_model(stored, torch.float32)
        model.prepare(TorchKernels(1, torch.device("meta")), quantization)
    assert isinstance(model.layers[0].attention.qkv.kernel, TorchLinear)
    assert model.layers[0].attention.qkv.kernel.weight.is_meta
