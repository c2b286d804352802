"""The kernels are decorated when they are imported, so the interpreter is chosen before any test module is."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

HERE = Path(__file__).parent

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ["TRITON_INTERPRET"] = "1"
