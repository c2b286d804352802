"""Every model family against transformers' logits on the same tiny checkpoint, for each set of kernels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.config import GraphsName
from llmbench.reference_engine.errors import CheckpointError, KernelsUnavailableError
from llmbench.reference_engine.kernels import dispatch
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.models.loader import load_model, read_model_config
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import Scheduler
from llmbench.reference_engine.sequence import Sequence

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
GPT2_SIZES = {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("MistralForCausalLM", {**SIZES, "sliding_window": 9}),
    "mistral without a window": ("MistralForCausalLM", {**SIZES, "sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", SIZES),
    "qwen2 tied": ("Qwen2ForCausalLM", {**SIZES, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**SIZES, "head_dim": 32}),
    "gpt2": ("GPT2LMHeadModel", GPT2_SIZES),
    "gpt_neox": ("GPTNeoXForCausalLM", {**SIZES, "rotary_pct": 0.5}),
    "gpt_neox quarter": ("GPTNeoXForCausalLM", SIZES),
    "gpt_neox 20b's gelu": ("GPTNeoXForCausalLM", {**SIZES, "hidden_act": "gelu_fast"}),
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """Variant to its checkpoint folder and transformers' model; made once."""
    pytest.importorskip("transformers")
    import transformers

    made: dict[str, tuple[Path, Any]] = {}

    def make(variant: str) -> tuple[Path, Any]:
        if variant not in made:
            name, settings = VARIANTS[variant]
            torch.manual_seed(3)
            model_class = getattr(transformers, name)
            model = model_class(model_class.config_class(**settings)).eval()
            for parameter_name, parameter in model.named_parameters():
                # transformers starts biases at 0 and norms at 1, which would hide a missing or misplaced one
                if parameter_name.endswith("bias"):
                    torch.nn.init.normal_(parameter, std=0.2)
                elif parameter.dim() == 1:
                    torch.nn.init.uniform_(parameter, 0.5, 1.5)
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            made[variant] = (folder, model)
        return made[variant]

    return make


def logits_of(
    folder: Path, kernels_name: str, text: list[int], prompt_len: int, graphs: GraphsName = "off"
) -> torch.Tensor:
    """Logits at positions prompt_len - 1 … end: the prompt in chunks of 11, then each known token as a decode."""
    model = load_model(folder, torch.float32)
    scheduler = Scheduler(BlockTables(BlockPool(32), 16), max_num_seqs=1, max_num_batched_tokens=11)
    cache = KVCache(model.config, 32, 16, torch.float32)
    runner = ModelRunner(model, cache, dispatch.load(kernels_name, 1), max_model_len=128)
    if graphs != "off":
        runner.record_graphs(graphs, max_num_seqs=1)
    sequence = Sequence("a", text[:prompt_len], SamplingParams(max_tokens=len(text)), seed=0)
    scheduler.add(sequence)
    rows: list[torch.Tensor] = []
    while True:
        plan = scheduler.schedule()
        rows += runner.execute(plan).clone()  # a replay writes where the last one wrote
        scheduler.commit(plan)
        if sequence.num_uncomputed_tokens == 0:
            if sequence.num_tokens == len(text):
                return torch.stack(rows)
            sequence.append(text[sequence.num_tokens], ())


@pytest.mark.parametrize(("kernels_name", "graphs"), [("torch", "off"), ("cpp", "off"), ("cpp", "cpu")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(
    variant: str, kernels_name: str, graphs: GraphsName, oracle: Callable[[str], tuple[Path, Any]]
) -> None:
    folder, model = oracle(variant)
    text = torch.randint(0, 320, (40,), generator=torch.Generator().manual_seed(4)).tolist()
    try:
        ours = logits_of(folder, kernels_name, text, prompt_len=29, graphs=graphs)
    except KernelsUnavailableError as error:
        pytest.skip(str(error))
    with torch.inference_mode():
        expected = model(torch.tensor([text])).logits[0, 28:]
    assert ours.shape == expected.shape
    assert expected.std() > 0.5  # far from all zero: the comparison means something
    assert (ours - expected).abs().max() < 1e-4


def test_checkpoint_of_the_bare_model_loads(oracle: Callable[[str], tuple[Path, Any]], tmp_path: Path) -> None:
    """The hub's gpt2 has no `transformer.` before its names, and the causal mask among its weights."""
    from safetensors.torch import load_file, save_file

    folder, _ = oracle("gpt2")
    weights = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 128, 128).tril()
    save_file(bare, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    text = list(range(20))
    assert torch.equal(logits_of(tmp_path, "torch", text, 9), logits_of(folder, "torch", text, 9))


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window is not supported"),
        ("gpt2", {"activation_function": "relu"}, "activation_function must be gelu_new; 'relu' was found"),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "inverse_layer_idx must be false; True was found",
        ),
        ("gpt_neox", {"use_parallel_residual": False}, "use_parallel_residual must be true; False was found"),
        ("gpt_neox", {"hidden_act": "relu"}, "hidden_act must be one of gelu, gelu_fast, .*; 'relu' was found"),
    ],
)
def test_settings_that_would_not_be_honoured_are_refused(
    variant: str,
    changes: dict[str, Any],
    message: str,
    oracle: Callable[[str], tuple[Path, Any]],
    tmp_path: Path,
) -> None:
    folder, _ = oracle(variant)
    raw = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | changes))
    with pytest.raises(CheckpointError, match=message):
        read_model_config(tmp_path)
