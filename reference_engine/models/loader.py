"""A Hugging Face checkpoint folder to a loaded model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.models.base import CausalLM
from llmbench.reference_engine.models.config import ModelConfig, read_eos_token_ids
from llmbench.reference_engine.models.raw_values import read_list
from llmbench.reference_engine.models.registry import FAMILIES
from llmbench.reference_engine.models.stored_weights import StoredFormat, read_format

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
NAMES_SHOWN = 5

log = logging.getLogger(__name__)


def load_model(folder: Path, dtype: torch.dtype) -> CausalLM:
    """The model with its weights converted to `dtype`. Raises CheckpointError naming the file and what is wrong.

    Where config.json ties the head to the embedding and the head is stored with other weights, the model has both, as
    in transformers 5.
    """
    raw = read_raw_config(folder)
    config = _model_config(folder, raw)
    stored = read_format(raw, folder / "config.json")
    files = weight_files(folder)
    file_of = _stored_names(files)
    model = _build(config, dtype, folder, len(file_of))
    if config.tie_word_embeddings and _has_own_head(model, file_of):
        log.warning("%s: tie_word_embeddings is true, but the stored head is not the embedding; both are used.", folder)
        model = _build(dataclasses.replace(config, tie_word_embeddings=False), dtype, folder, len(file_of))
    model.stored_quantization = None if stored is None else stored.scheme
    _load_weights(model, folder, files, stored)
    return model


def _build(config: ModelConfig, dtype: torch.dtype, folder: Path, num_tensors: int) -> CausalLM:
    """The model with uninitialised weights, unless config.json's sizes cannot be those of the weight files."""
    if config.num_layers > num_tensors:
        raise CheckpointError(
            f"{folder}: config.json's number of layers is {config.num_layers}; the weight files hold {num_tensors} "
            "tensors in all."
        )
    try:
        return FAMILIES[config.architecture].build(config, dtype)
    except RuntimeError:  # torch's, on every device
        raise CheckpointError(
            f"{folder}: weights of the sizes that config.json gives do not fit into memory: a vocabulary of "
            f"{config.vocab_size}, {config.num_layers} layers of {config.hidden_size} and {config.intermediate_size}."
        ) from None


def _has_own_head(model: CausalLM, file_of: Mapping[str, Path]) -> bool:
    """True if both the embedding and the head are stored and they differ."""
    embedding, head = model.tied_names
    if embedding not in file_of:
        embedding = embedding.removeprefix(model.base_prefix)
    if embedding not in file_of or head not in file_of:
        return False
    tensors = []
    for name in (embedding, head):
        with _opened(file_of[name]) as stored:
            tensors.append(stored.get_tensor(name))
    return not torch.equal(*tensors)


def read_raw_config(folder: Path) -> dict[str, Any]:
    """config.json, of a supported architecture."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; a checkpoint folder with config.json is needed.")
    raw = _read_json(folder / "config.json")
    try:
        architectures = read_list(raw, "architectures")
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    if len(architectures) != 1 or not isinstance(architectures[0], str) or architectures[0] not in FAMILIES:
        found = ", ".join(map(str, architectures)) or "none"
        raise CheckpointError(
            f"{folder / 'config.json'}: architecture {found} is not supported; the supported ones are "
            f"{', '.join(FAMILIES)}."
        )
    return raw


def read_model_config(folder: Path) -> ModelConfig:
    """The sizes of the checkpoint's model, without reading its weights."""
    return _model_config(folder, read_raw_config(folder))


def _model_config(folder: Path, raw: Mapping[str, Any]) -> ModelConfig:
    try:
        config = FAMILIES[raw["architectures"][0]].read_config(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    generation_file = folder / "generation_config.json"
    generation = _read_json(generation_file) if generation_file.exists() else {}
    # generation_config.json is the newer place, and the only one that lists a chat model's end-of-turn token.
    eos_token_ids = read_eos_token_ids(generation, config.vocab_size, str(generation_file))
    return config if eos_token_ids is None else dataclasses.replace(config, eos_token_ids=eos_token_ids)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, single or sharded."""
    index_file = folder / INDEX_FILE
    if index_file.exists():
        weight_map = _read_json(index_file).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index_file}: weight_map is missing or empty.")
        if not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{index_file}: weight_map must give the name of a file for each weight.")
        files = [folder / name for name in sorted(set(weight_map.values()))]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise CheckpointError(f"{index_file} names {_some(absent)}, not found in {folder}.")
        return files
    if not (folder / SINGLE_FILE).is_file():
        raise CheckpointError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}.")
    return [folder / SINGLE_FILE]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file to read from."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file (truncated or corrupt?): {error}.") from error


def _stored_names(files: Iterable[Path]) -> dict[str, Path]:
    """Every tensor's file."""
    file_of: dict[str, Path] = {}
    for file in files:
        with _opened(file) as tensors:
            file_of |= dict.fromkeys(tensors.keys(), file)
    return file_of


def _load_weights(model: CausalLM, folder: Path, files: Iterable[Path], stored: StoredFormat | None) -> None:
    views = model.checkpoint_views()
    missing = set(views)
    unexpected: list[str] = []
    quantised: dict[str, dict[str, torch.Tensor]] = {}
    for file in files:
        with _opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                part = None if stored is None else stored.split(name)
                full_name = name if name in views else model.base_prefix + name
                if part is not None:
                    quantised.setdefault(part[0], {})[part[1]] = tensors.get_tensor(name)
                elif full_name in views:
                    _copy(views[full_name], tensors.get_tensor(name), name, file)
                    missing.discard(full_name)
                elif not model.is_ignorable(name):
                    unexpected.append(name)
    linears = model.checkpoint_linears()
    for name, parts in quantised.items():
        assert stored is not None
        full_name = name if name in linears else model.base_prefix + name
        if full_name not in linears:
            unexpected += [f"{name}.{part}" for part in parts]
            continue
        codes = stored.unpack(name, parts)
        _check_shape(linears[full_name].weight, codes.codes, name, folder)
        linears[full_name].store(codes)
        missing.discard(f"{full_name}.weight")
    if missing or unexpected:
        faults = [f"lacks {_some(sorted(missing))}"] * bool(missing)
        faults += [f"has the unknown {_some(sorted(unexpected))}"] * bool(unexpected)
        raise CheckpointError(f"The checkpoint {folder} does not match its config.json: it {' and '.join(faults)}.")


def _copy(target: torch.Tensor, source: torch.Tensor, name: str, file: Path) -> None:
    _check_shape(target, source, name, file)
    if not source.dtype.is_floating_point:
        raise CheckpointError(f"{file}: {name} holds {source.dtype}; floating point weights are needed.")
    target.copy_(source)


def _check_shape(target: torch.Tensor, source: torch.Tensor, name: str, file: Path) -> None:
    if target.shape != source.shape:
        raise CheckpointError(
            f"{file}: {name} has shape {list(source.shape)}; config.json asks for {list(target.shape)}."
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file} holds no JSON object.")
    return raw


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
