"""The wheel holds every importable folder: setuptools leaves a forgotten one out without a word."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROOMS = ("engines", "harness", "reference_engine", "reports", "results", "workloads")


def setuptools_config() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def importable_folders() -> set[str]:
    folders = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    folders.discard(Path("harness/_llmbench"))
    return {"llmbench", *("llmbench." + ".".join(folder.parts) for folder in folders)}


def test_every_folder_with_python_in_it_is_listed_and_nothing_else() -> None:
    assert set(setuptools_config()["packages"]) == importable_folders()


def test_every_listed_package_has_an_init() -> None:
    for room in ROOMS:
        for folder in {path.parent for path in (ROOT / room).rglob("*.py")}:
            assert (folder / "__init__.py").exists(), f"{folder} has Python files and no __init__.py"


def test_package_dir_maps_each_room_to_its_folder() -> None:
    mapping = setuptools_config()["package-dir"]
    assert mapping == {"llmbench": "harness/_llmbench", **{f"llmbench.{room}": room for room in ROOMS}}


def test_every_c_file_of_the_compiled_reader_is_listed_and_a_build_without_it_is_no_failure() -> None:
    (extension,) = setuptools_config()["ext-modules"]
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "harness/csrc").iterdir()}
    assert {*extension["sources"], *extension["depends"]} == sources
    assert extension["optional"] is True
    assert (ROOT / "harness/native_reader.pyi").exists()
