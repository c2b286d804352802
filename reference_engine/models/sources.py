"""The checkpoint that a model's name stands for."""

from __future__ import annotations

from pathlib import Path

from llmbench.reference_engine.models.bundled import PREFIX, bundled_folder


def checkpoint_folder(model: str, seed: int = 0, out: Path | None = None) -> Path:
    """The folder of `bundled:NAME` or `synthetic:NAME`, which is made on first use, or the folder itself.

    seed: of a synthetic model's weights. out: where to write one, the cache if None. Raises ConfigError with the names
    there are.
    """
    if model.startswith(PREFIX):
        return bundled_folder(model)
    if not model.startswith("synthetic:"):
        return Path(model)
    from llmbench.reference_engine.models import synthetic

    return synthetic.create(model, seed, out)
