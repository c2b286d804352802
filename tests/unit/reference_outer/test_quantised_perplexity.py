"""What each format costs the bundled target on held-out text, within the bounds that docs/quantization.md names."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from llmbench.reference_engine.models.bundled import bundled_folder
from llmbench.reference_engine.quantization.calibration import calibration_windows, quantise_checkpoint
from llmbench.reference_engine.training import corpus

TARGET = bundled_folder("bundled:python-target")
WINDOW, NUM_WINDOWS = 128, 24


@pytest.fixture(scope="module")
def perplexity() -> ModuleType:
    """benchmarks/perplexity.py, which measures the same on more text and beside it the speed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
        return importlib.import_module("perplexity")


@pytest.fixture(scope="module")
def windows(perplexity: ModuleType) -> Sequence[Sequence[int]]:
    """From all over the held-out files."""
    tokenizer = Tokenizer.from_file(str(TARGET / "tokenizer.json"))
    found = perplexity.cut(tokenizer, corpus.texts()[1], WINDOW)
    return found[:: len(found) // NUM_WINDOWS][:NUM_WINDOWS]


@pytest.fixture(scope="module")
def plain(perplexity: ModuleType, windows: Sequence[Sequence[int]]) -> torch.Tensor:
    return perplexity.mean_losses(perplexity.Format(TARGET), windows, "auto")


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"quantization": "int8"}, 0.005),
        ({"quantization": "int8-weight-only"}, 0.005),
        ({"quantization": "fp8"}, 0.005),
        ({"quantization": "int4"}, 0.03),
        ({"quantization": "int4-weight-only"}, 0.03),
        ({"kv": "int8"}, 0.005),
        ({"kv": "fp8"}, 0.005),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_fewer_bits_cost_little(
    perplexity: ModuleType,
    windows: Sequence[Sequence[int]],
    plain: torch.Tensor,
    settings: dict[str, Any],
    allowed: float,
) -> None:
    losses = perplexity.mean_losses(perplexity.Format(TARGET, **settings), windows, "auto")
    assert not torch.equal(losses, plain), "the format was not used"
    assert abs(math.expm1(float((losses - plain).mean()))) < allowed


def test_so_does_a_calibrated_checkpoint(
    perplexity: ModuleType, windows: Sequence[Sequence[int]], plain: torch.Tensor, tmp_path: Path
) -> None:
    """GPTQ on files that the model was trained on, read as a checkpoint and measured on others."""
    quantise_checkpoint(TARGET, tmp_path, calibration_windows(TARGET, None, 8, WINDOW))
    losses = perplexity.mean_losses(perplexity.Format(tmp_path, quantization="int4"), windows, "auto")
    assert not torch.equal(losses, plain)
    assert abs(math.expm1(float((losses - plain).mean()))) < 0.03
