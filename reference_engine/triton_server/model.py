"""What Triton's Python backend loads, by a link in the model repository; the work is in backend.py.

Its stub is an isolated interpreter: PYTHONPATH and PYTHONUTF8 do nothing, the locale is C, and llmbench is not in its
environment. So this file finds the package by its own place, and sets the locale before anything opens a file.
"""

import locale
import sys
from pathlib import Path
from types import ModuleType

locale.setlocale(locale.LC_ALL, "C.UTF-8")

if "llmbench" not in sys.modules:
    for name, folders in (("llmbench", []), ("llmbench.reference_engine", [Path(__file__).resolve().parents[1]])):
        package = ModuleType(name)
        package.__path__ = [str(folder) for folder in folders]
        sys.modules[name] = package

from llmbench.reference_engine.triton_server.backend import TritonPythonModel  # noqa: E402

__all__ = ["TritonPythonModel"]
