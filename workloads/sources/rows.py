"""Prompts that were written before: rows of a JSONL file, first questions of ShareGPT conversations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.lengths import sample
from llmbench.workloads.planned_prompt import PlannedPrompt
from llmbench.workloads.prompt_rows import Row, read_jsonl, read_sharegpt
from llmbench.workloads.prompt_specs import JsonlPrompts, ShareGptPrompts
from llmbench.workloads.prompt_writer import PromptWriter

Item = TypeVar("Item")


def row_prompts(spec: JsonlPrompts | ShareGptPrompts, writer: PromptWriter) -> list[PlannedPrompt]:
    """The file's rows, again from the first when there are more requests than rows."""
    outputs: Sequence[int] | None = None
    if spec.output_tokens is not None:
        outputs = sample(spec.output_tokens, writer.count, writer.stream("output lengths"))
    rows = _chosen(spec, writer)
    return [
        _planned(index, rows[index % len(rows)], None if outputs is None else outputs[index], writer)
        for index in range(writer.count)
    ]


def _chosen(spec: JsonlPrompts | ShareGptPrompts, writer: PromptWriter) -> list[Row]:
    """The rows to ask, in order, as many as there are requests or as the file has."""
    if isinstance(spec, JsonlPrompts):
        rows = read_jsonl(spec, allow_messages=writer.is_chat)
        return list(itertools.islice(_ordered(rows, spec.shuffle, writer), writer.count))
    exchanges = read_sharegpt(spec.path)
    count = None if writer.text is None else writer.text.count
    candidates = (exchange.row(spec, count) for exchange in _ordered(exchanges, spec.shuffle, writer))
    kept = list(itertools.islice((row for row in candidates if row is not None), writer.count))
    if not kept:
        raise WorkloadError(
            f"{spec.path}: none of {len(exchanges)} conversations is within prompts.min_tokens, "
            "prompts.max_prompt_tokens and prompts.max_total_tokens"
        )
    return kept


def _ordered(items: Sequence[Item], shuffle: bool, writer: PromptWriter) -> Iterator[Item]:
    order: Sequence[int] = range(len(items))
    if shuffle:
        order = writer.shared_stream("row order").permutation(len(items)).tolist()
    # Warm-up starts from the other end, with rows that are measured late or not at all.
    yield from (items[item] for item in (reversed(order) if writer.purpose == "warmup" else order))


def _planned(index: int, row: Row, max_tokens: int | None, writer: PromptWriter) -> PlannedPrompt:
    if max_tokens is None:
        max_tokens = row.max_tokens
    if max_tokens is None:
        raise WorkloadError(f"{row.where}: nothing says how long the answer should be; set prompts.output_tokens")
    if row.messages is None:
        assert row.prompt is not None
        return writer.planned(index, writer.salted(index, row.prompt), max_tokens)
    (role, content), *rest = row.messages
    return writer.planned_chat(index, ((role, writer.salted(index, content)), *rest), max_tokens)
