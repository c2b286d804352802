"""The kernels are decorated when they are imported, so the interpreter is chosen before any test module is."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent

# In CI its absence is a failure, so that nobody takes kernels that were left out for ones that passed.
if importlib.util.find_spec("triton") is None and "CI" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
else:
    early = [name for name in sys.modules if name.startswith("llmbench.reference_engine.kernels.triton_lang.")]
    assert not early, f"imported by an earlier test module, and so compiled for a GPU: {', '.join(early)}"
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def bfloat16_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter holds bfloat16 as integers: it multiplies those, and takes an integer for its own bits. With this
    it multiplies and converts the numbers that are meant."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle, interpreter_builder

    multiply, convert = interpreter_builder.create_dot, interpreter_builder.create_si_to_fp

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_si_to_fp(source: Any, target: Any) -> Any:
        if target.scalar != tl.bfloat16:
            return convert(source, target)
        return interpreter_builder.create_fp_trunc(convert(source, tl.float32), target)

    monkeypatch.setattr(
        interpreter_builder, "create_dot", lambda a, b, *rest: multiply(widened(a), widened(b), *rest), raising=False
    )
    monkeypatch.setattr(interpreter_builder, "create_si_to_fp", create_si_to_fp, raising=False)


@pytest.fixture(autouse=True)
def _wide_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU wants many programs, and the interpreter runs them one by one."""
    from llmbench.reference_engine.kernels.triton_lang import gemv

    monkeypatch.setattr(gemv, "_shape", lambda _kind: (64, 16, 4))
