"""When waiting requests may join: the batching policies by name. The scheduler asks once per step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class QueueState(NamedTuple):
    """What a policy decides from. waited_ns: how long the first in the queue has waited; max_delay_ns: may wait."""

    num_running: int
    num_waiting: int
    max_num_seqs: int
    waited_ns: int
    max_delay_ns: int


def _is_full_or_due(state: QueueState) -> bool:
    return state.num_waiting >= state.max_num_seqs or state.waited_ns >= state.max_delay_ns


# True lets the queue in: as far as seats and blocks go, and with "continuous" the step's budget of tokens.
POLICIES: dict[str, Callable[[QueueState], bool]] = {
    # At every step: who ends makes room for the next at once. Source: Orca, Yu et al., OSDI 2022 §3.
    "continuous": lambda state: True,
    # Whoever waits when a batch has ended is the next batch; it ends with its longest member.
    "static": lambda state: state.num_running == 0,
    # The same, but a batch that is not full waits a little for more requests.
    "dynamic": lambda state: state.num_running == 0 and _is_full_or_due(state),
}
