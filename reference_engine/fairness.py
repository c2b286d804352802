"""Whose request is next when users compete: the Virtual Token Counter, which serves the user who was served least.

Every user has a counter of weighted tokens. It rises by the prompt when a request is admitted, at once, for otherwise
one user could fill all seats before it moved; and by each output token as it is generated. Next is the first waiting
request of the user with the least counter. Whoever begins to wait is lifted to where the users who wait are: time spent
away earns no credit. Then of two users who both have requests waiting all the time, neither gets more than
2 max(w_p L, w_q M) ahead: L is the longest prompt, M what the requests computed at once can come to in tokens, prompts
and answers, and w_p <= w_q are the weights. Source: Sheng et al., OSDI 2024, arXiv:2401.00588 §4.

Counted is what a user got and what others had to wait for: tokens found in the prefix cache took no time; what is
computed again after a preemption, and drafts that are rejected, were the engine's doing. A counter never falls: of a
request that is given up, what was charged stays charged. Each answer of `n` is a request of its own, and each beam of a
search generates tokens of its own.

One thing is not the paper's. Newcomers who are lifted to the least counter can starve a user above it: while they keep
coming, one after the other under new names, the least counter stays where it is. So a newcomer begins where the user
who was admitted last stood after its prompt: from one to the next this rises, and it lies within the same bound.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from llmbench.reference_engine.sequence import Sequence

# The paper's, and about what providers ask for the two. The bound above needs the first to be no larger.
PROMPT_WEIGHT, OUTPUT_WEIGHT = 1, 2
# Users without requests whose counters are kept. One beyond them begins as a newcomer again.
MAX_ABSENT = 4096


class VirtualTokenCounters:
    """The counters of all users who have requests, and of some who had. Requests that name no user are one user's."""

    def __init__(self) -> None:
        self._counters: dict[str | None, int] = {}  # who began to wait longest ago is the first
        self._least = 0  # the counter of the user who was admitted last, before and after its prompt
        self._after_prompt = 0
        self._forget_beyond = 2 * MAX_ABSENT

    def __len__(self) -> int:
        return len(self._counters)

    def __getitem__(self, user: str | None) -> int:
        return self._counters[user]

    def begin_to_wait(self, user: str | None, waiting: SequenceOf[Sequence], running: SequenceOf[Sequence]) -> None:
        """Lift the user to where the others are, unless some of its requests wait already."""
        if any(other.user == user for other in waiting):
            return
        is_running = any(other.user == user for other in running)
        # What runs will yet raise its counter; a newcomer's stays.
        start = self._least if is_running else self._after_prompt
        self._counters[user] = max(self._counters.pop(user, 0), start)
        if len(self._counters) > self._forget_beyond:
            self._forget_absent({other.user for others in (waiting, running) for other in others} | {user})

    def _forget_absent(self, present: set[str | None]) -> None:
        absent = [user for user in self._counters if user not in present]
        for user in absent[: max(len(absent) - MAX_ABSENT, 0)]:
            del self._counters[user]
        # So seldom that forgetting costs little per request, however many are present.
        self._forget_beyond = 2 * max(len(self._counters), MAX_ABSENT)

    def turn(self, sequence: Sequence) -> tuple[int, int]:
        """Sorts by the users' counters, and one user's requests, or those of equal counters, by rank."""
        return self._counters[sequence.user], sequence.rank

    def admit(self, sequence: Sequence, is_readmitted: bool) -> None:
        """Charge what is to be computed of the prompt, unless it was when the sequence first ran."""
        self._least = self._counters[sequence.user]
        if not is_readmitted:
            assert sequence.num_cached_tokens is not None
            num_tokens = sequence.num_prompt_tokens - sequence.num_cached_tokens
            self._counters[sequence.user] += PROMPT_WEIGHT * num_tokens
        self._after_prompt = self._counters[sequence.user]

    def generate(self, sequence: Sequence, num_tokens: int) -> None:
        """Charge output tokens; not those that beams had before they were preempted and began again."""
        if sequence.beams is None or sequence.num_output_tokens >= sequence.beams.num_tokens_before:
            self._counters[sequence.user] += OUTPUT_WEIGHT * num_tokens
