"""Random streams that are the same in every process: a seed and labels in, a numpy generator out."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def stream(seed: int, *labels: str | int) -> np.random.Generator:
    """A PCG64 generator, independent of the one for any other seed or labels.

    Labels are hashed with SHA-256, never with `hash()`, which differs from process to process. Streams are the same on
    every machine with one numpy version; numpy may change how a distribution uses its bits between versions.
    """
    import numpy as np

    name = "\x1f".join(f"{type(label).__name__}:{label}" for label in labels)
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[start : start + 4], "little") for start in range(0, len(digest), 4)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))
