"""Random-weight checkpoints with real shapes and a real tokenizer: what speed needs of a model, without a download."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from llmbench.reference_engine.cache_root import cache_root
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.models.checkpoint_layout import (
    LlamaShape,
    train_tokenizer,
    write_description,
    write_json,
)
from llmbench.reference_engine.models.new_folder import check_new_folder, new_folder
from llmbench.reference_engine.models.synthetic_text import lines

PREFIX = "synthetic:"
# Part of every cached folder's name: a change of what this file makes must not meet an older checkpoint.
RECIPE_VERSION = 1
MAX_SHARD_BYTES = 512 * 2**20

PRESETS = {
    "llama-tiny": LlamaShape(1024, 64, 192, 2, 4, 2, max_position_embeddings=512, dtype="float32"),
    "llama-20m": LlamaShape(8192, 384, 1024, 9, 6, 2),
    "llama-150m": LlamaShape(32_000, 768, 2048, 16, 12, 4),
    "tinyllama-1.1b": LlamaShape(32_000, 2048, 5632, 22, 32, 4),
}


def preset(source: str) -> tuple[str, LlamaShape]:
    """The name and shape behind `synthetic:NAME` (or NAME alone). Raises ConfigError with the names there are."""
    name = source.removeprefix(PREFIX)
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else "."
        known = ", ".join(PREFIX + known for known in PRESETS)
        raise ConfigError(f"There is no model {source!r}; there are {known}{hint}")
    return name, PRESETS[name]


def create(source: str, seed: int = 0, out: Path | None = None) -> Path:
    """The checkpoint folder of `source`, written unless it is in the cache; byte for byte the same for the same seed.

    With `out` it is written there, which must not exist or be empty. Two processes may ask for the same one at once.
    """
    name, shape = preset(source)
    if out is None:
        folder = cache_root() / "models" / f"{name}-seed{seed}-v{RECIPE_VERSION}"
        if folder.is_dir():
            return folder
    else:
        folder = out
        check_new_folder(folder)
    with new_folder(folder, any_writer=True) as made:  # the same seed makes the same bytes
        _write(made, shape, seed)
    return folder


def num_parameters(shape: LlamaShape) -> int:
    return sum(rows * (columns or 1) for _, (rows, columns) in tensor_shapes(shape))


def tensor_shapes(shape: LlamaShape) -> Iterator[tuple[str, tuple[int, int]]]:
    """Every weight's name and shape, in the order of the layers; a vector's second size is 0."""
    hidden, kv_size = shape.hidden_size, shape.num_kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab_size, hidden)
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}input_layernorm.weight", (hidden, 0)
        yield f"{prefix}self_attn.q_proj.weight", (hidden, hidden)
        yield f"{prefix}self_attn.k_proj.weight", (kv_size, hidden)
        yield f"{prefix}self_attn.v_proj.weight", (kv_size, hidden)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{prefix}post_attention_layernorm.weight", (hidden, 0)
        yield f"{prefix}mlp.gate_proj.weight", (shape.intermediate_size, hidden)
        yield f"{prefix}mlp.up_proj.weight", (shape.intermediate_size, hidden)
        yield f"{prefix}mlp.down_proj.weight", (hidden, shape.intermediate_size)
    yield "model.norm.weight", (hidden, 0)
    yield "lm_head.weight", (shape.vocab_size, hidden)


def _write(folder: Path, shape: LlamaShape, seed: int) -> None:
    # Enough different words for every merge to be learnt: the vocabulary comes out full at every preset's size.
    words = 4 * shape.vocab_size
    tokenizer = train_tokenizer(lines(num_lines=words, num_words=words, seed=0), shape.vocab_size)
    assert tokenizer.get_vocab_size() == shape.vocab_size
    write_description(folder, shape, tokenizer)
    _write_weights(folder, shape, seed)


def _write_weights(folder: Path, shape: LlamaShape, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, shape.dtype)
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = total = 0
    weight_map: dict[str, int] = {}
    for name, (rows, columns) in tensor_shapes(shape):
        if columns:
            # 1/sqrt(fan in) keeps activations, and so logits, at the scale of a trained model's.
            weight = torch.randn(rows, columns, generator=generator).mul_(columns**-0.5).to(dtype)
        else:
            weight = torch.ones(rows, dtype=dtype)
        num_bytes = weight.numel() * weight.element_size()
        if size and size + num_bytes > MAX_SHARD_BYTES:
            # Written as soon as it is full: no more than one shard is in memory.
            save_file(shards[-1], folder / _partial_name(len(shards)), metadata={"format": "pt"})
            shards[-1].clear()
            shards.append({})
            size = 0
        shards[-1][name] = weight
        weight_map[name] = len(shards)
        size += num_bytes
        total += num_bytes
    save_file(shards[-1], folder / _partial_name(len(shards)), metadata={"format": "pt"})
    if len(shards) == 1:
        (folder / _partial_name(1)).rename(folder / "model.safetensors")
        return
    names = {number: f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)}
    for number, name in names.items():
        (folder / _partial_name(number)).rename(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: names[number] for name, number in weight_map.items()},
    }
    write_json(folder / "model.safetensors.index.json", index)


def _partial_name(number: int) -> str:
    return f"shard-{number}.safetensors"
