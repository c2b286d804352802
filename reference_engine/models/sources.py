"""The checkpoint that a model's name stands for."""

from __future__ import annotations

import shutil
from pathlib import Path

from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.models.bundled import PREFIX, bundled_folder

SYNTHETIC = "synthetic:"


def checkpoint_folder(model: str) -> Path:
    """The folder of `bundled:NAME` or `synthetic:NAME`, which is made on first use, or the folder itself.

    Raises ConfigError with the names there are.
    """
    return create_checkpoint(model) if model.startswith((PREFIX, SYNTHETIC)) else Path(model)


def create_checkpoint(model: str, seed: int = 0, out: Path | None = None) -> Path:
    """The folder of `bundled:NAME` or `synthetic:NAME`: `out`, new or empty, if given.

    Without `out` a bundled one stays where it is installed, and a synthetic one is made in the cache on first use.
    seed: of a synthetic model's weights. Raises ConfigError with the names there are, or for an `out` that cannot be
    written.
    """
    if model.startswith(PREFIX):
        folder = bundled_folder(model)
        return folder if out is None else _copied(folder, out)
    if not model.startswith(SYNTHETIC):
        raise ConfigError(f"{model!r} is no model that is made here: `models list` prints those that are.")
    from llmbench.reference_engine.models import synthetic  # reads torch, which `serve --help` does without

    return synthetic.create(model, seed, out)


def _copied(folder: Path, out: Path) -> Path:
    from llmbench.reference_engine.models.new_folder import check_new_folder, new_folder

    check_new_folder(out)
    with new_folder(out) as made:
        shutil.copytree(folder, made, dirs_exist_ok=True)
    return out
