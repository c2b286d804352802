"""Passages of a text file, cut to exact lengths."""

from __future__ import annotations

from llmbench.workloads.lengths import sample
from llmbench.workloads.planned_prompt import PlannedPrompt
from llmbench.workloads.prompt_specs import TextPrompts
from llmbench.workloads.prompt_writer import PromptWriter
from llmbench.workloads.text_passages import Passages


def text_prompts(spec: TextPrompts, writer: PromptWriter) -> list[PlannedPrompt]:
    """Prompts from random places of the text; counted in words where there is no tokenizer."""
    lengths = sample(spec.prompt_tokens, writer.count, writer.stream("prompt lengths"))
    outputs = sample(spec.output_tokens, writer.count, writer.stream("output lengths"))
    passages = Passages(spec.path)
    planned = []
    for index, (asked, max_tokens) in enumerate(zip(lengths, outputs, strict=True)):
        generator = writer.stream("prompt", index)
        if writer.text is None:
            planned.append(writer.planned(index, writer.salted(index, passages.words(asked, generator)), max_tokens))
            continue
        num_text = writer.room_for_text(asked)
        head = writer.salt(num_text, "request", index)
        passage = passages.at_most(head, num_text, writer.text.count, generator)
        planned.append(writer.exact(index, writer.text.extend(passage, num_text, generator), asked, max_tokens))
    return planned
