"""What config.json means: as transformers reads it, or a sentence, whatever stands in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.models.loader import load_model, read_model_config
from llmbench.reference_engine.models.registry import FAMILIES
from llmbench.reference_engine.sampling import SamplingParams

# Heads that every family's default number of key/value heads (8 and 32) divides.
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 256,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "max_position_embeddings": 64,
}
GPT2_SIZES = {"vocab_size": 96, "n_embd": 256, "n_layer": 1, "n_head": 32, "n_positions": 64}
# Without these a config.json describes no model; everything else that we read has a default.
REQUIRED = {*SIZES, *GPT2_SIZES}


def sizes_of(architecture: str) -> dict[str, Any]:
    return GPT2_SIZES if architecture == "GPT2LMHeadModel" else SIZES


def write_config(folder: Path, raw: Mapping[str, Any]) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(raw))
    return read_model_config(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's tiny checkpoint, which tests may spoil no more than its config.json."""
    pytest.importorskip("transformers")
    import transformers

    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            torch.manual_seed(1)
            model_class = getattr(transformers, architecture)
            made[architecture] = tmp_path_factory.mktemp(architecture)
            model = model_class(model_class.config_class(**sizes_of(architecture)))
            model.save_pretrained(made[architecture])
        return made[architecture]

    return make


@pytest.mark.parametrize("architecture", FAMILIES)
def test_absent_keys_mean_what_they_mean_to_transformers(architecture: str, tmp_path: Path) -> None:
    """A config.json without a key reads as the one in which transformers' default is written out."""
    pytest.importorskip("transformers")
    import transformers

    config_class = getattr(transformers, architecture).config_class
    small = {"architectures": [architecture], "model_type": config_class.model_type, **sizes_of(architecture)}
    # Not the 32 that are the default of key/value heads: it must be seen to be taken.
    small["n_head" if "n_head" in small else "num_attention_heads"] = 64
    (tmp_path / "config.json").write_text(json.dumps(small))
    theirs = config_class.from_pretrained(tmp_path).to_dict()
    # What transformers derives from other keys is derived here too: null means "derive it".
    written_out = {key: value for key, value in theirs.items() if key not in ("layer_types", "dtype")}
    assert written_out.keys() - small.keys() > {"tie_word_embeddings", "eos_token_id"}
    assert write_config(tmp_path, small) == write_config(tmp_path, written_out)
    for key in REQUIRED & small.keys():
        with pytest.raises(CheckpointError, match=f"config.json: {key} must be a positive integer; it is absent"):
            write_config(tmp_path, {name: value for name, value in small.items() if name != key})


@pytest.mark.parametrize(
    ("architecture", "changes", "taken"),
    [
        ("MistralForCausalLM", {}, {"sliding_window": 4096, "num_kv_heads": 8}),
        ("MistralForCausalLM", {"sliding_window": None}, {"sliding_window": None}),
        ("Qwen2ForCausalLM", {}, {"num_kv_heads": 32, "eos_token_ids": frozenset()}),
        ("Qwen3ForCausalLM", {"num_key_value_heads": None}, {"num_kv_heads": 32, "head_dim": 128}),
        ("LlamaForCausalLM", {"num_attention_heads": 4}, {"num_kv_heads": 4, "eos_token_ids": frozenset({2})}),
        ("LlamaForCausalLM", {"eos_token_id": None}, {"eos_token_ids": frozenset()}),
        # Its default of 50256 is in no vocabulary of 96.
        ("GPT2LMHeadModel", {}, {"tie_word_embeddings": True, "eos_token_ids": frozenset()}),
    ],
)
def test_null_and_absent_differ(
    architecture: str, changes: dict[str, Any], taken: dict[str, Any], tmp_path: Path
) -> None:
    config = write_config(tmp_path, {"architectures": [architecture], **sizes_of(architecture), **changes})
    assert {name: getattr(config, name) for name in taken} == taken


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPTNeoXForCausalLM"])
@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_theta": 5.0},
        {"rotary_emb_base": 7.0, "rope_theta": 5.0},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 77.0}, "rope_theta": 5.0},
        {"rope_parameters": {"rope_type": "linear", "factor": 3, "rope_theta": 77.0}, "rope_theta": 5.0},
    ],
)
def test_the_spelling_of_rope_that_wins_is_transformers(
    architecture: str, rotary: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    import transformers

    config_class = getattr(transformers, architecture).config_class
    rope = write_config(tmp_path, {"architectures": [architecture], **SIZES, **rotary}).rope
    theirs = config_class.from_pretrained(tmp_path).rope_parameters
    assert rope is not None
    assert (rope.rope_type, rope.theta) == (theirs["rope_type"], theirs["rope_theta"])
    assert rope.factor == theirs.get("factor", 1.0)


LLAMA3 = {"rope_type": "llama3", "factor": 8, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        (
            "LlamaForCausalLM",
            {"architectures": "LlamaForCausalLM"},
            "architectures must be a list; 'LlamaFor",
        ),
        ("LlamaForCausalLM", {"architectures": [["LlamaForCausalLM"]]}, "architecture .* is not supported"),
        ("LlamaForCausalLM", {"rope_theta": None}, "rope_theta must be a finite number above 0; None was found"),
        ("LlamaForCausalLM", {"rope_parameters": {"rope_theta": "1e4"}}, "rope_theta must be a finite number above 0"),
        ("LlamaForCausalLM", {"rope_theta": float("inf")}, "rope_theta must be a finite number above 0; inf"),
        ("LlamaForCausalLM", {"rope_scaling": "linear"}, "rope_scaling must be an object; 'linear' was found"),
        ("LlamaForCausalLM", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor must be a finite number ab"),
        ("LlamaForCausalLM", {"rope_scaling": {"type": "linear", "factor": "4"}}, "factor must .*; '4' was found"),
        ("LlamaForCausalLM", {"rope_scaling": {"type": ["linear"]}}, "rope type .* is not supported"),
        (
            "LlamaForCausalLM",
            {"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0, "high_freq_factor": 4.0}},
            r"low_freq_factor \(4.0\) must be below high_freq_factor \(4.0\)",
        ),
        (
            "Qwen2ForCausalLM",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0}}},
            "full_attention: .* one for all layers",
        ),
        ("LlamaForCausalLM", {"rms_norm_eps": None}, "rms_norm_eps must be a finite number above 0; None"),
        ("GPT2LMHeadModel", {"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon must be a finite number above 0"),
        ("GPTNeoXForCausalLM", {"layer_norm_eps": -1.0}, "layer_norm_eps must be a finite number above 0; -1.0"),
        ("LlamaForCausalLM", {"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false; 'false'"),
        ("LlamaForCausalLM", {"attention_bias": 1}, "attention_bias must be true or false; 1 was found"),
        ("LlamaForCausalLM", {"vocab_size": 2**40}, "vocab_size must be .* no more than 2147483647"),
        ("LlamaForCausalLM", {"head_dim": 15}, "head size of 15 .* even"),
        ("GPT2LMHeadModel", {"n_head": 3}, r"n_embd \(256\) is not a multiple of n_head \(3\)"),
        ("GPTNeoXForCausalLM", {"num_attention_heads": 3}, r"hidden_size \(256\) is not a multiple of num_att"),
        ("GPTNeoXForCausalLM", {"hidden_act": ["gelu"]}, "hidden_act must be one of gelu"),
        ("GPTNeoXForCausalLM", {"rotary_pct": 1.5}, "rotary_pct must be .* no more than 1; 1.5 was found"),
        ("GPTNeoXForCausalLM", {"rotary_pct": 0.1}, "0.1 of a head size of 8"),
        (
            "GPTNeoXForCausalLM",
            {"rope_parameters": {"partial_rotary_factor": 1.5}},
            "partial_rotary_factor must be .* no more than 1; 1.5",
        ),
        ("LlamaForCausalLM", {"eos_token_id": "2"}, "eos_token_id must be a token's id .*; '2' was found"),
        ("LlamaForCausalLM", {"eos_token_id": [1, "2"]}, r"eos_token_id must be .*; \[1, '2'\] was found"),
        ("LlamaForCausalLM", {"eos_token_id": True}, "eos_token_id must be .*; True was found"),
        ("Qwen2ForCausalLM", {"layer_types": 3}, "layer_types must be a list; 3 was found"),
    ],
)
def test_values_without_a_meaning_are_refused_in_a_sentence(
    architecture: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    raw = {"architectures": [architecture], **sizes_of(architecture), **changes}
    with pytest.raises(CheckpointError, match=message):
        write_config(tmp_path, raw)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["gptq"], r"quantization_config must be an object; \['gptq'\]"),
        ({"quant_method": "gptq", "bits": 4, "group_size": "128"}, "group_size '128' is not supported; multiples"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size 0 is not supported; multiples of 64"),
        ({"quant_method": "gptq", "bits": [4], "group_size": 128}, r"weights of \[4\] bits are not supported"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": ["x"]}, "one config gr"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"a": {"weights": 4}}},
            "one config group",
        ),
    ],
)
def test_a_malformed_quantization_config(
    value: object, message: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_with(folders("LlamaForCausalLM"), tmp_path, quantization_config=value)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, torch.float32)


def test_end_tokens_outside_the_vocabulary_end_nothing(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """They would be logits to forbid that there are none of, for a request with min_tokens."""
    folder = copy_with(folders("LlamaForCausalLM"), tmp_path, eos_token_id=5)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2000, -1]}')
    engine = Engine(EngineConfig(model_path=folder, kernels="torch", num_threads=1))
    assert engine.eos_token_ids == {1}
    engine.add_request("a", [3, 4], SamplingParams(max_tokens=4, min_tokens=3, temperature=0))
    while engine.has_work():
        engine.step()
    assert engine.stats().num_finished == 1
    (folder / "generation_config.json").write_text('{"eos_token_id": "2"}')
    with pytest.raises(CheckpointError, match=r"generation_config.json: eos_token_id must be .*; '2' was found"):
        load_model(folder, torch.float32)


def test_sizes_beyond_the_weights_are_refused_before_they_take_memory(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_with(folders("LlamaForCausalLM"), tmp_path, num_hidden_layers=10**9)
    with pytest.raises(CheckpointError, match=r"number of layers is 1000000000; the weight files hold 1\d tensors"):
        load_model(folder, torch.float32)
    folder = copy_with(folders("LlamaForCausalLM"), tmp_path, vocab_size=2**31 - 1, hidden_size=2**30)
    with pytest.raises(CheckpointError, match=r"sizes that config\.json gives do not fit into memory"):
        load_model(folder, torch.float32)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_tied_head_with_weights_of_its_own_is_the_one_that_transformers_computes_with(
    architecture: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder = copy_with(folders(architecture), tmp_path, tie_word_embeddings=True)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    head = "embed_out.weight" if architecture == "GPTNeoXForCausalLM" else "lm_head.weight"
    tensors[head] = torch.randn(96, 256, generator=torch.Generator().manual_seed(2))
    save_file(tensors, file, {"format": "pt"})
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).get_output_embeddings()
    assert torch.equal(theirs.weight, tensors[head])
    views = load_model(folder, torch.float32).checkpoint_views()
    assert torch.equal(views[head], tensors[head])
    # The same once more beside the embedding is no head of its own.
    endings = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
    embedding = next(name for name in tensors if name.endswith(endings))
    save_file({**tensors, head: tensors[embedding].clone()}, file, {"format": "pt"})
    model = load_model(folder, torch.float32)
    assert model.config.tie_word_embeddings
    assert torch.equal(model.checkpoint_views()[embedding], tensors[embedding])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("linear"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PARTS = {
    "rope_parameters": ("rope_type", "type", "rope_theta", "factor", "partial_rotary_factor", "low_freq_factor"),
    "quantization_config": ("quant_method", "format", "bits", "group_size", "sym", "desc_act", "config_groups"),
}
WHOLE = {
    "rope_parameters": {**LLAMA3, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"a": {"weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 64}}},
    },
}
EXTRA_KEYS = (
    *("rope_scaling", "rope_theta", "sliding_window", "head_dim", "layer_types", "use_sliding_window", "n_inner"),
    *("rotary_pct", "rotary_emb_base", "hidden_act", "attention_bias", "mlp_bias", "architectures", "eos_token_id"),
)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_any_value_of_any_key_gives_a_model_or_a_sentence(
    architecture: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_with(folders(architecture), tmp_path)
    whole = json.loads((folder / "config.json").read_text())
    keys = st.sampled_from(sorted({*whole, *EXTRA_KEYS}))
    places = keys.map(lambda key: (key, None)) | st.sampled_from(
        [(key, part) for key, parts in PARTS.items() for part in parts]
    )

    @given(place=places, value=VALUES, is_generation=st.booleans())
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def check(place: tuple[str, str | None], value: object, is_generation: bool) -> None:
        key, part = place
        changed = value if part is None else {**WHOLE[key], part: value}
        (folder / "config.json").write_text(json.dumps({**whole, key: changed}))
        generation = {"eos_token_id": value} if is_generation else {}
        (folder / "generation_config.json").write_text(json.dumps(generation))
        try:
            model = load_model(folder, torch.float32)
        except CheckpointError as refusal:
            told = str(refusal)
        else:
            told = "."
            assert all(0 <= token < model.config.vocab_size for token in model.config.eos_token_ids)
        assert told.endswith(".")

    check()


def copy_with(folder: Path, out: Path, **changes: Any) -> Path:
    shutil.copytree(folder, out, dirs_exist_ok=True)
    raw = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(raw | changes))
    return out
