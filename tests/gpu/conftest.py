"""These tests need a CUDA or HIP device; without one each is skipped, and docs/gpu.md says what stands in for them."""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu" not in item.path.as_posix():
            continue
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason=f"torch {torch.__version__} finds no CUDA or HIP device"))
