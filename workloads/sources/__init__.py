"""Where prompts come from. A new source is a spec in prompt_specs.py, one file here and one line in `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmbench.workloads.planned_prompt import PlannedPrompt
from llmbench.workloads.prompt_writer import PromptWriter
from llmbench.workloads.sources.conversations import conversation_prompts
from llmbench.workloads.sources.mixed import mixed_prompts
from llmbench.workloads.sources.rows import row_prompts
from llmbench.workloads.sources.synthetic import synthetic_prompts
from llmbench.workloads.sources.text import text_prompts
from llmbench.workloads.sources.trace import trace_prompts

Source = Callable[[Any, PromptWriter], list[PlannedPrompt]]

# By the spec's kind: (spec, writer) to `writer.count` prompts in the order of sending.
SOURCES: Mapping[str, Source] = {
    "synthetic": synthetic_prompts,
    "text": text_prompts,
    "jsonl": row_prompts,
    "sharegpt": row_prompts,
    "trace": trace_prompts,
    "conversations": conversation_prompts,
    "mixed": lambda spec, writer: mixed_prompts(spec, writer, SOURCES),
}
