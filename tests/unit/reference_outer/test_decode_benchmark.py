"""What benchmarks/decode.py says of engines that only offer whole generations."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
from decode_worker import WholeGenerations

SECONDS_PER_PROMPT_TOKEN, SECONDS_PER_STEP = 0.01, 0.5


class WithPrefixCache(WholeGenerations):
    """Takes so long for each prompt token that it has not seen, and so long for each step."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, ...]] = set()

    def run(self, prompts: list[list[int]], num_tokens: int) -> float:
        new = [prompt for prompt in prompts if tuple(prompt) not in self._seen]
        self._seen |= set(map(tuple, prompts))
        return sum(map(len, new)) * SECONDS_PER_PROMPT_TOKEN + num_tokens * SECONDS_PER_STEP


def test_a_prefix_cache_makes_no_decode_step_faster() -> None:
    subject = WithPrefixCache()
    draw = random.Random(0)
    for _ in range(3):
        prompts = [[draw.randrange(1000) for _ in range(32)] for _ in range(16)]
        assert subject.generate(prompts, 48) == pytest.approx(48 * SECONDS_PER_STEP)
