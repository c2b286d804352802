"""Who may import whom: a room that reaches around the seams fails here, with the file and line."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAY_IMPORT: dict[str, set[str]] = {
    "workloads": set(),
    "engines": set(),
    "results": set(),
    "reference_engine": set(),
    "reports": {"results"},
    "harness": {"workloads", "engines", "results"},
    "harness/cli": {"workloads", "engines", "results", "reports"},
}


def room_of(path: Path) -> str:
    relative = path.relative_to(ROOT).as_posix()
    return max((room for room in MAY_IMPORT if relative.startswith(room + "/")), key=len)


def imported_modules(tree: ast.AST) -> list[tuple[int, str]]:
    modules: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "llmbench" else [node.module]
            )
            modules += [(node.lineno, name) for name in names]
    return modules


@pytest.mark.parametrize("room", sorted({room.split("/")[0] for room in MAY_IMPORT}))
def test_imports_follow_the_table(room: str) -> None:
    offences = []
    for path in sorted((ROOT / room).rglob("*.py")):
        if path.is_relative_to(ROOT / "harness/_llmbench"):
            continue  # `python -m llmbench` and the version: the package's own front door
        own = room_of(path)
        allowed = MAY_IMPORT[own] | {own.split("/")[0]}
        for line, module in imported_modules(ast.parse(path.read_text())):
            parts = module.split(".")
            if parts[0] == "llmbench" and len(parts) > 1 and parts[1] != "__version__" and parts[1] not in allowed:
                offences.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not offences, "\n".join(offences)


def test_the_harness_does_not_import_its_own_command_line() -> None:
    offences = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted((ROOT / "harness").rglob("*.py"))
        if not path.is_relative_to(ROOT / "harness/cli") and not path.is_relative_to(ROOT / "harness/_llmbench")
        for line, module in imported_modules(ast.parse(path.read_text()))
        if module.startswith("llmbench.harness.cli")
    ]
    assert not offences, "\n".join(offences)


def test_no_file_of_the_reference_engine_imports_itself_by_way_of_others() -> None:
    """Nor would it if functions did not import late: what a file needs can be read before it."""
    graph: dict[str, set[str]] = {}
    for path in sorted((ROOT / "reference_engine").rglob("*.py")):
        name = ".".join(("llmbench", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        tree = _without_type_checking(ast.parse(path.read_text()))
        graph[name] = {module for _, module in imported_modules(tree)}
        # `from package import file` too.
        graph[name] |= {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def _without_type_checking(tree: ast.Module) -> ast.Module:
    """The file without what only type checkers read."""

    class Dropped(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            self.generic_visit(node)
            is_dropped = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return node.orelse if is_dropped else node

    dropped: ast.Module = Dropped().visit(tree)
    return dropped
