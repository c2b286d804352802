"""Random words of exact lengths, with beginnings in common where asked."""

from __future__ import annotations

from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.lengths import sample
from llmbench.workloads.planned_prompt import PlannedPrompt
from llmbench.workloads.prompt_specs import SharedPrefixSpec, SyntheticPrompts
from llmbench.workloads.prompt_writer import PromptWriter


def synthetic_prompts(spec: SyntheticPrompts, writer: PromptWriter) -> list[PlannedPrompt]:
    """Prompts whose lengths, contents and groups are drawn from streams of their own."""
    lengths = sample(spec.prompt_tokens, writer.count, writer.stream("prompt lengths"))
    outputs = sample(spec.output_tokens, writer.count, writer.stream("output lengths"))
    heads = SharedHeads(spec.shared_prefix, writer, writer.count)
    planned = []
    for index, (asked, max_tokens) in enumerate(zip(lengths, outputs, strict=True)):
        num_text = writer.room_for_text(asked)
        head, group = heads.head(index, num_text)
        text = writer.exact_text.extend(head, num_text, writer.stream("prompt", index))
        planned.append(writer.exact(index, text, asked, max_tokens, group))
    return planned


class SharedHeads:
    """The beginnings of `count` prompts: a salt each, or one of the shared prefixes."""

    def __init__(self, spec: SharedPrefixSpec, writer: PromptWriter, count: int) -> None:
        self._num_tokens, self._writer = spec.tokens, writer
        # Balanced, in random order: each group gets its share even where requests are few.
        self._order = writer.stream("groups").permutation(count) % spec.groups
        self._heads: dict[int, str] = {}

    def head(self, index: int, num_text: int) -> tuple[str, int | None]:
        """The beginning of prompt `index`, which has room for `num_text` tokens, and its group if it is shared."""
        writer = self._writer
        if not self._num_tokens:
            return writer.salt(num_text, "request", index), None
        if self._num_tokens >= num_text:
            raise WorkloadError(
                f"field 'prompts.shared_prefix.tokens': given {self._num_tokens}, and prompt {index} has room for "
                f"{num_text} tokens of text; allowed: below the shortest prompt"
            )
        group = int(self._order[index])
        if group not in self._heads:
            salt = writer.salt(self._num_tokens, "group", group)
            self._heads[group] = writer.exact_text.extend(salt, self._num_tokens, writer.stream("prefix", group))
        return self._heads[group], group
