"""Mooncake: Kimi's traffic with the prefixes its prompts share (arXiv:2407.00079), https://github.com/kvcache-ai/Mooncake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from llmbench.workloads.errors import WorkloadError, shorten
from llmbench.workloads.traces.rows import TraceRow, finite, whole

# Published with the trace: each hash id stands for this many tokens and all before them.
BLOCK_TOKENS = 512


def read_mooncake(path: str) -> Iterator[TraceRow]:
    """The requests of a JSONL with `timestamp` in ms, `input_length`, `output_length` and, optionally, `hash_ids`."""
    with Path(path).open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip() and (row := _row(f"{path}:{number}", line)) is not None:
                yield row


def _row(where: str, line: str) -> TraceRow | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WorkloadError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise WorkloadError(f"{where}: given {shorten(fields)}, allowed: a JSON object")
    for name in ("timestamp", "input_length", "output_length"):
        if name not in fields:
            given = ", ".join(map(repr, fields)) or "none"
            raise WorkloadError(f"{where}: the row has no field {name!r}; its fields are: {given}")
    prompt, output = (whole(where, name, fields[name]) for name in ("input_length", "output_length"))
    ids = fields.get("hash_ids", [])
    if not isinstance(ids, list) or any(type(block) is not int for block in ids):
        raise WorkloadError(f"{where}: hash_ids: given {shorten(ids)}, allowed: a list of whole numbers")
    if not prompt or not output:
        return None
    time_s = finite(where, "timestamp", fields["timestamp"]) / 1000
    return TraceRow(where, time_s, prompt, output, tuple(ids), BLOCK_TOKENS)
