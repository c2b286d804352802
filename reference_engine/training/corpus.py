"""What the bundled pair is trained on: the source of the Python standard library that runs the training."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

# Tests repeat themselves, and what is vendored or generated is not written as Python is.
_LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "lib2to3", "ensurepip", "pydoc_data", "__pycache__"}
_LEFT_OUT_NAMES = ("_sysconfigdata",)
_HELD_OUT_OF = 20


def files() -> list[Path]:
    """The modules, in the order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return sorted(
        path
        for path in root.rglob("*.py")
        if _LEFT_OUT.isdisjoint(path.relative_to(root).parts) and not path.name.startswith(_LEFT_OUT_NAMES)
    )


def texts() -> tuple[list[str], list[str]]:
    """Texts to train on, and held-out ones: one file in twenty, chosen by its name and so the same on every machine."""
    train: list[str] = []
    held_out: list[str] = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        chosen = hashlib.sha256(path.name.encode()).digest()[0] % _HELD_OUT_OF == 0
        (held_out if chosen else train).append(text)
    return train, held_out
