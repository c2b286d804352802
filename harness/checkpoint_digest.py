"""Which model it was: one digest over a checkpoint folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

SUFFIXES = (".json", ".safetensors", ".model", ".jinja")
FULL_BYTES = 16 * 2**20
SAMPLE_BYTES = 2**20
STRIDE_BYTES = 256 * 2**20


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 over names, sizes and contents of what makes an answer: configuration, tokenizer, weights.

    Files beyond FULL_BYTES are sampled, SAMPLE_BYTES at every STRIDE_BYTES and at the end: reading 100 GB would take
    minutes. A safetensors file begins with the names, types and shapes of its tensors, so these always count.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= FULL_BYTES:
                digest.update(file.read())
                continue
            for offset in (*range(0, size, STRIDE_BYTES), max(0, size - SAMPLE_BYTES)):
                file.seek(offset)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
