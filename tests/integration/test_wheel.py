"""What `pip install llmbench` gives a user is what the repository holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("engines", "harness", "reference_engine", "reports", "results", "workloads")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    # From a copy: setuptools builds in the source tree, and a stale build/ there would lend modules to the next wheel.
    out = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(".*", "build", "runs", "tests", "__pycache__", "*.egg-info")
    source = shutil.copytree(ROOT, out / "source", ignore=skip)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True, cwd=out, timeout=100)
    (path,) = out.glob("llmbench-*.whl")
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist())


def in_wheel(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return "llmbench/" + relative.as_posix().removeprefix("harness/_llmbench/")


def test_every_module_is_in_the_wheel(wheel_names: set[str]) -> None:
    modules = {in_wheel(path) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert modules <= wheel_names, modules - wheel_names


def test_every_shipped_workload_template_and_type_marker_is_in_the_wheel(wheel_names: set[str]) -> None:
    data = [*(ROOT / "workloads").glob("*.yaml"), *(ROOT / "reports/templates").glob("*")]
    expected = {in_wheel(path) for path in data} | {"llmbench/py.typed"}
    assert expected <= wheel_names, expected - wheel_names


def test_the_compiled_reader_and_its_types_are_in_the_wheel_where_there_is_a_compiler(wheel_names: set[str]) -> None:
    assert "llmbench/harness/native_reader.pyi" in wheel_names
    if sys.platform != "linux" or shutil.which(sysconfig.get_config_var("CC").split()[0]) is None:
        pytest.skip("no C compiler, or no Linux")
    assert f"llmbench/harness/native_reader{sysconfig.get_config_var('EXT_SUFFIX')}" in wheel_names


def test_nothing_else_is_in_the_wheel(wheel_names: set[str]) -> None:
    strangers = {name for name in wheel_names if not name.startswith("llmbench") or "tests/" in name}
    assert not strangers
