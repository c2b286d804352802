"""The model a workload names, found on disk or made."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from llmbench.harness.errors import ConfigError, MissingExtraError
from llmbench.workloads.prompts import find_tokenizer

SYNTHETIC = "synthetic:"
BUNDLED = "bundled:"
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """`name` is what engines are asked for. `path` is None for a model that only an attached server knows.

    `max_model_len` is the longest prompt plus answer in tokens that the checkpoint's config.json allows.
    """

    name: str
    path: Path | None
    tokenizer_path: Path | None
    max_model_len: int | None


def resolve_model(model: str, tokenizer: str | None, needs_checkpoint: bool) -> ModelRef:
    """The model behind `bundled:NAME`, `synthetic:NAME` (made on first use), a folder, or a server's own name.

    `needs_checkpoint` is false where every engine is attached to by url: then any name will do. Raises ConfigError with
    what was looked for, MissingExtraError when making a synthetic model needs a package that is not installed.
    """
    if model.startswith((SYNTHETIC, BUNDLED)):
        path: Path | None = create_synthetic(model)
        name = model
    else:
        folder = Path(model).expanduser()
        path = folder.resolve() if folder.is_dir() else None
        name = path.name if path is not None else model
        if path is None and (needs_checkpoint or model.startswith((".", "/", "~"))):
            raise ConfigError(
                f"model: {model!r} is no folder here. Give a checkpoint folder (config.json, *.safetensors, "
                f"tokenizer.json), {BUNDLED}NAME or {SYNTHETIC}NAME (`llmbench models list`); a server's own "
                "name for a model will do only where every engine has a url."
            )
    max_model_len = None if path is None else _max_model_len(path)
    return ModelRef(name, path, _tokenizer_path(path, tokenizer), max_model_len)


def create_synthetic(source: str) -> Path:
    """The checkpoint folder of `bundled:NAME` or `synthetic:NAME`; the engine's command line makes it if need be."""
    require_reference_engine()
    command = [sys.executable, "-m", "llmbench.reference_engine", "models", "create", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or f"`{' '.join(command[1:])}` ended with code {done.returncode} and said nothing."
        raise ConfigError(f"model: {source!r} could not be made: {said}")
    return Path(done.stdout.strip().splitlines()[-1])


def require_reference_engine() -> None:
    """Raise MissingExtraError with the pip command unless the bundled engine's packages are installed."""
    missing = [name for name in ("torch", "safetensors", "tokenizers") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"The bundled engine and its synthetic models need {', '.join(missing)}, which is not installed: "
            'pip install "llmbench[reference]"'
        )


def _max_model_len(path: Path) -> int | None:
    config_path = path / "config.json"
    try:
        config = json.loads(config_path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"model: {path} has no config.json, so it is no checkpoint folder (config.json, *.safetensors, "
            "tokenizer.json)."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"model: {config_path} cannot be read: {error}") from error
    lengths = [config.get(name) for name in _CONTEXT_FIELDS] if isinstance(config, dict) else []
    return next((length for length in lengths if isinstance(length, int)), None)


def _tokenizer_path(path: Path | None, tokenizer: str | None) -> Path | None:
    if tokenizer is None:
        return None if path is None else find_tokenizer(path)
    given = Path(tokenizer).expanduser()
    file = find_tokenizer(given) if given.is_dir() else given
    if file is None or not file.is_file():
        raise ConfigError(
            f"tokenizer: {tokenizer!r} is neither a tokenizer.json or tokenizer.model nor a folder that holds one."
        )
    return file.resolve()
