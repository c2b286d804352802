"""Conversations: several questions of one user, each behind the engine's answers to those before."""

from __future__ import annotations

from dataclasses import replace

from llmbench.workloads.lengths import sample
from llmbench.workloads.planned_prompt import PlannedPrompt
from llmbench.workloads.prompt_specs import ConversationPrompts
from llmbench.workloads.prompt_writer import PromptWriter
from llmbench.workloads.sources.synthetic import SharedHeads

NS_PER_S = 1_000_000_000


def conversation_prompts(spec: ConversationPrompts, writer: PromptWriter) -> list[PlannedPrompt]:
    """Turns, conversation by conversation, until there are as many as requests; the last conversation may be cut.

    A warm-up has first turns alone.
    """
    num_turns = _turns(spec, writer)
    lengths = sample(spec.prompt_tokens, writer.count, writer.stream("prompt lengths"))
    outputs = sample(spec.output_tokens, writer.count, writer.stream("output lengths"))
    thinking_s = spec.think_s.sample(writer.count, writer.stream("think times"))
    heads = SharedHeads(spec.shared_prefix, writer, len(num_turns))
    planned: list[PlannedPrompt] = []
    for conversation, turns in enumerate(num_turns):
        for turn in range(turns):
            index = len(planned)
            asked, max_tokens = lengths[index], outputs[index]
            generator = writer.stream("prompt", conversation, turn)
            if turn == 0:
                # The prefix comes on top of the first question: a system prompt, or the document that is spoken of.
                asked += spec.shared_prefix.tokens
                num_text = writer.room_for_text(asked)
                head, group = heads.head(conversation, num_text)
                text = writer.exact_text.extend(head, num_text, generator)
                first = writer.exact(index, text, asked, max_tokens, group)
                planned.append(replace(first, conversation=conversation))
                continue
            text = writer.exact_text.extend("", asked, generator)
            planned.append(
                replace(
                    writer.planned(index, text, max_tokens),
                    prompt_tokens=None,
                    conversation=conversation,
                    turn=turn,
                    think_ns=round(thinking_s[index] * NS_PER_S),
                )
            )
    return planned


def _turns(spec: ConversationPrompts, writer: PromptWriter) -> list[int]:
    """How many turns each conversation has; `writer.count` in all."""
    if writer.purpose == "warmup":
        return [1] * writer.count
    drawn = sample(spec.turns, writer.count, writer.stream("turns"))
    kept: list[int] = []
    left = writer.count
    for turns in drawn:
        if left == 0:
            break
        kept.append(min(turns, left))
        left -= kept[-1]
    return kept
