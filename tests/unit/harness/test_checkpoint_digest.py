"""One digest for one model."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbench.harness import checkpoint_digest as module
from llmbench.harness.checkpoint_digest import checkpoint_digest


def write(folder: Path, weights: bytes, config: str = "{}") -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(weights)
    return checkpoint_digest(folder)


def test_it_follows_contents_and_nothing_else(tmp_path: Path) -> None:
    first = write(tmp_path / "a", b"weights")
    assert write(tmp_path / "b", b"weights") == first
    assert write(tmp_path / "b", b"Weights") != first
    assert write(tmp_path / "b", b"weights", config='{"n": 1}') != first
    (tmp_path / "a" / "README.md").write_text("about")
    assert checkpoint_digest(tmp_path / "a") == first


def test_large_files_are_sampled_from_their_beginning_to_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FULL_BYTES", 100)
    monkeypatch.setattr(module, "SAMPLE_BYTES", 10)
    monkeypatch.setattr(module, "STRIDE_BYTES", 60)
    weights = bytearray(200)
    plain = write(tmp_path / "a", bytes(weights))
    for place, seen in ((0, True), (65, True), (199, True), (40, False)):
        changed = bytearray(weights)
        changed[place] = 1
        assert (write(tmp_path / "a", bytes(changed)) != plain) == seen
    assert write(tmp_path / "a", bytes(201)) != plain
