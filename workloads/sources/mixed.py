"""Several kinds of users at once, each with prompts of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmbench.workloads.planned_prompt import PlannedPrompt
from llmbench.workloads.prompt_specs import MixedPrompts
from llmbench.workloads.prompt_writer import PromptWriter

Source = Callable[[Any, PromptWriter], list[PlannedPrompt]]


def mixed_prompts(spec: MixedPrompts, writer: PromptWriter, sources: Mapping[str, Source]) -> list[PlannedPrompt]:
    """Each population's share of the requests, in random order; turns of a conversation stay one behind the other."""
    shares = apportion(writer.count, [population.weight for population in spec.populations])
    units: list[list[PlannedPrompt]] = []
    for population, share in zip(spec.populations, shares, strict=True):
        if share == 0:
            continue
        own = writer.scoped("population", population.name, count=share, salt_kind=population.prompts.salt)
        for prompt in sources[population.prompts.kind](population.prompts, own):
            named = replace(prompt, population=population.name)
            if prompt.turn > 0:
                units[-1].append(named)
            else:
                units.append([named])
    mixed: list[PlannedPrompt] = []
    for number, unit in enumerate(writer.stream("order").permutation(len(units)).tolist()):
        for prompt in units[unit]:
            conversation = None if prompt.conversation is None else number
            mixed.append(replace(prompt, index=len(mixed), conversation=conversation))
    return mixed


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole shares of `total` in proportion to `weights`, by largest remainder; the first of equals is served first."""
    whole = math.fsum(weights)
    exact = [total * weight / whole for weight in weights]
    shares = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda place: shares[place] - exact[place])
    for place in by_remainder[: total - sum(shares)]:
        shares[place] += 1
    return shares
