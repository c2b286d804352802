"""What Triton's environment is installed with is all that the model behind it imports."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llmbench.engines.triton_launch import RECIPE

pytest.importorskip("torch", reason="the extra llmbench[reference] is not installed")

IMPORT_IT = """
import importlib.abc, sys, types

absent = set(sys.argv[1:])

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
from llmbench.reference_engine.triton_server.backend import TritonPythonModel
print(TritonPythonModel.__name__)
"""


def installed_with(names: list[str]) -> set[str]:
    """Distributions that these bring, themselves included."""
    found: set[str] = set()
    while names:
        name = canonicalize_name(names.pop())
        if name in found:
            continue
        found.add(name)
        try:
            wanted = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        names += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def test_the_model_imports_nothing_that_its_environment_lacks() -> None:
    there = installed_with([Requirement(line).name for line in RECIPE.requirements])
    # Of this environment's modules, those of distributions that Triton's is not installed with.
    absent = [
        module
        for module, owners in packages_distributions().items()
        if module != "llmbench" and not any(canonicalize_name(owner) in there for owner in owners)
    ]
    assert {"structlog", "starlette", "pydantic"} <= {*absent}
    done = subprocess.run([sys.executable, "-c", IMPORT_IT, *absent], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "TritonPythonModel", done.stderr
