"""Random-weight checkpoints with real shapes and a real tokenizer: what speed needs of a model, without a download."""

from __future__ import annotations

import contextlib
import difflib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llmbench.reference_engine.cache_root import cache_root
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.models.synthetic_text import lines

PREFIX = "synthetic:"
# Part of every cached folder's name: a change of what this file makes must not meet an older checkpoint.
RECIPE_VERSION = 1
MAX_SHARD_BYTES = 512 * 2**20

BOS, EOS = "<s>", "</s>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Preset:
    """A Llama shape."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    max_position_embeddings: int = 2048
    dtype: str = "bfloat16"

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_parameters(self) -> int:
        return sum(rows * (columns or 1) for _, (rows, columns) in tensor_shapes(self))


PRESETS = {
    "llama-tiny": Preset(1024, 64, 192, 2, 4, 2, max_position_embeddings=512, dtype="float32"),
    "llama-20m": Preset(8192, 384, 1024, 9, 6, 2),
    "llama-150m": Preset(32_000, 768, 2048, 16, 12, 4),
    "tinyllama-1.1b": Preset(32_000, 2048, 5632, 22, 32, 4),
}


def preset(source: str) -> tuple[str, Preset]:
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
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} exists and is not an empty folder; give another one.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Written beside its place and moved there whole: an interrupted checkpoint is never taken for a finished one.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as partial:
            made = Path(partial) / "checkpoint"
            made.mkdir()
            _write(made, shape, seed)
            _move(made, folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}.") from None
    return folder


def tensor_shapes(shape: Preset) -> Iterator[tuple[str, tuple[int, int]]]:
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


def _write(folder: Path, shape: Preset, seed: int) -> None:
    tokenizer = _train_tokenizer(shape.vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    eos_token_id = tokenizer.token_to_id(EOS)
    bos_token_id = tokenizer.token_to_id(BOS)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "model_max_length": shape.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": shape.vocab_size,
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "head_dim": shape.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": shape.max_position_embeddings,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": False,
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
            "torch_dtype": shape.dtype,
        },
    )
    _write_json(folder / "generation_config.json", {"bos_token_id": bos_token_id, "eos_token_id": eos_token_id})
    _write_weights(folder, shape, seed)


def _train_tokenizer(vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in (BOS, EOS, *_ROLES)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Enough different words for every merge to be learnt: the vocabulary comes out full at every preset's size.
    tokenizer.train_from_iterator(lines(num_lines=4 * vocab_size, num_words=4 * vocab_size, seed=0), trainer)
    assert tokenizer.get_vocab_size() == vocab_size
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[bos])
    return tokenizer


def _write_weights(folder: Path, shape: Preset, seed: int) -> None:
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
    _write_json(folder / "model.safetensors.index.json", index)


def _partial_name(number: int) -> str:
    return f"shard-{number}.safetensors"


def _move(made: Path, folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    with contextlib.suppress(FileExistsError):
        try:
            made.rename(folder)
        except OSError:
            # Another process was quicker; the same seed made the same bytes.
            if not (folder / "config.json").is_file():
                raise
            shutil.rmtree(made)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
