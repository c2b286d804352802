"""Random words of a trace's lengths, with the beginnings in common that the trace records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from llmbench.workloads.planned_prompt import PlannedPrompt
from llmbench.workloads.prompt_specs import TracePrompts
from llmbench.workloads.prompt_writer import PromptWriter
from llmbench.workloads.traces import TraceRow, read_trace


def trace_prompts(spec: TracePrompts, writer: PromptWriter) -> list[PlannedPrompt]:
    """One prompt per row, in the trace's order. Warm-up has the first rows' lengths and none of their words."""
    rows = read_trace(spec, writer.count)
    lengths = [_cut(row.prompt_tokens, spec.max_prompt_tokens) for row in rows]
    rooms = [writer.room_for_text(asked) for asked in lengths]
    heads = _BlockHeads(rows, rooms, writer)
    planned = []
    for index, (row, asked, num_text) in enumerate(zip(rows, lengths, rooms, strict=True)):
        head = heads.head(index) or writer.salt(num_text, "request", index)
        text = writer.exact_text.extend(head, num_text, writer.stream("prompt", index))
        planned.append(writer.exact(index, text, asked, _cut(row.output_tokens, spec.max_output_tokens)))
    return planned


def _cut(tokens: int, limit: int | None) -> int:
    return tokens if limit is None else min(tokens, limit)


class _BlockHeads:
    """The beginnings that rows share, as a tree of blocks. A node is a block and all before it."""

    def __init__(self, rows: Sequence[TraceRow], rooms: Sequence[int], writer: PromptWriter) -> None:
        self._rows, self._writer = rows, writer
        children: dict[tuple[int, int], int] = {}
        self._paths: list[list[int]] = []
        for row, room in zip(rows, rooms, strict=True):
            # Whole blocks alone, and one token at least of the request's own.
            num_blocks = (room - 1) // row.block_tokens if row.block_ids else 0
            path, node = [], 0
            for block in row.block_ids[:num_blocks]:
                node = children.setdefault((node, block), len(children) + 1)
                path.append(node)
            self._paths.append(path)
        self._uses = Counter(node for path in self._paths for node in path)
        self._texts: dict[int, str] = {}

    def head(self, index: int) -> str:
        """The longest beginning that row `index` has in common with another; empty where there is none."""
        text = ""
        shared = [node for node in self._paths[index] if self._uses[node] > 1]
        for depth, (node, deeper) in enumerate(pairwise([*shared, 0]), start=1):
            # Written only where requests part: each step encodes all the text up to it.
            if self._uses[deeper] != self._uses[node]:
                text = self._text(node, depth * self._rows[index].block_tokens, text)
        return text

    def _text(self, node: int, num_tokens: int, beginning: str) -> str:
        if node not in self._texts:
            beginning = beginning or self._writer.salt(num_tokens, "block", node)
            self._texts[node] = self._writer.exact_text.extend(
                beginning, num_tokens, self._writer.stream("block", node)
            )
        return self._texts[node]
