"""The page on workloads: every YAML block in it is one, and every field of a workload is in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llmbench.workloads.loader import json_schema, loads

PAGE = Path(__file__).parents[3] / "docs" / "workloads.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_a_workload_or_a_part_of_one(block: str) -> None:
    head = "" if block.startswith("name:") else "name: t\nmodel: synthetic:llama-20m\n"
    loads(head + block, "docs/workloads.md")


def test_every_field_and_kind_is_shown() -> None:
    shown = "\n".join(BLOCKS)
    words = set(re.findall(r"[a-z0-9_]+", shown))
    assert {name for name in _names(json_schema()) if name not in words} == set()


def _names(schema: dict[str, Any]) -> set[str]:
    """Each field of each part of a workload, and each name that a field's value may have."""
    found = set(schema["properties"])
    for part in schema["$defs"].values():
        for field, node in part.get("properties", {}).items():
            found |= {field, *map(str, node.get("enum", [])), *filter(None, [node.get("const")])}
    return found


def test_messages_quoted_are_those_printed() -> None:
    quoted = re.findall(r"^```text\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(quoted) == 1
    text = "name: t\nmodel: m\nseeds:\n  prompts: 1\n\ntraffic:\n    arivals: {kind: burst}\n"
    with pytest.raises(Exception, match="arivals") as caught:
        loads(text, "mine.yaml")
    assert str(caught.value).startswith(quoted[0].rstrip().removesuffix("…").rstrip())
