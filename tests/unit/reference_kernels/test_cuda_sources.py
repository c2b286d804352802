"""The CUDA C++ kernels without a GPU: they compile for Hopper, translate to HIP, and are launched without races."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmbench.reference_engine.errors import KernelsUnavailableError
from llmbench.reference_engine.kernels.block_copies import Pair, goes_by_kernel, independent_runs
from llmbench.reference_engine.kernels.cuda_build import SOURCES, compile_cuda, to_hip

NAMES = sorted(source.stem for source in SOURCES.glob("*.cu"))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the PATH")
@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_for_sm_90(name: str, tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    compile_cuda(SOURCES / f"{name}.cu", "sm_90", library)
    assert b"sm_90" in library.read_bytes()
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError as error:
        pytest.skip(f"compiled, and not loadable without CUDA's runtime: {error}")
    assert hasattr(loaded, f"llmbench_{name}")


@pytest.mark.parametrize("name", NAMES)
def test_it_translates_to_hip(name: str, tmp_path: Path) -> None:
    translated = to_hip(SOURCES / f"{name}.cu", tmp_path).read_text(encoding="utf-8")
    assert "#include <hip/hip_runtime.h>" in translated
    assert "hipLaunchKernelGGL" in translated
    code = "\n".join(line for line in translated.splitlines() if not line.lstrip().startswith("//"))
    assert "cuda" not in code
    assert "<<<" not in code


def test_a_missing_compiler_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelsUnavailableError, match="nvcc was not found"):
        compile_cuda(SOURCES / f"{NAMES[0]}.cu", "sm_90", tmp_path / "library.so")


def one_by_one(blocks: list[int], pairs: Sequence[Pair]) -> list[int]:
    for source, target in pairs:
        blocks[target] = blocks[source]
    return blocks


def at_once(blocks: list[int], pairs: Sequence[Pair]) -> list[int]:
    """As a GPU may: every read before any write, and the writes backwards."""
    for target, value in reversed([(target, blocks[source]) for source, target in pairs]):
        blocks[target] = value
    return blocks


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_copies_at_once_are_those_made_one_by_one(pairs: list[Pair]) -> None:
    blocks = list(range(6))
    expected = one_by_one(blocks.copy(), pairs)
    for run in independent_runs(pairs, within=True):
        at_once(blocks, run)
    assert blocks == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), unique_by=lambda pair: pair[1]))
def test_between_two_caches_distinct_targets_are_one_run(pairs: list[Pair]) -> None:
    assert list(independent_runs(pairs, within=False)) == ([pairs] if pairs else [])


@pytest.mark.parametrize(("width", "tokens", "goes"), [(64 + 2, 1, False), (64 + 2, 8, True), (128 + 2, 16, True)])
def test_blocks_that_are_no_multiple_of_16_bytes_are_left_to_torch(width: int, tokens: int, goes: bool) -> None:
    """int8 keys with their scales: one token's head of 64 takes 66 bytes."""
    cache = Mock(is_cuda=True, shape=(2, 2, 4, tokens, 1, width), element_size=lambda: 1)
    assert goes_by_kernel(cache, cache) is goes
    assert not goes_by_kernel(torch.empty(2, 2, 4, tokens, 1, width), torch.empty(2, 2, 4, tokens, 1, width))
