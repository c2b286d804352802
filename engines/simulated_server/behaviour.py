"""How the simulated engine answers: its schedule and its faults, one table for flags, settings and single requests."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self


def _option(default: Any, kind: type, meaning: str, minimum: float | None = 0, maximum: float = 1e9) -> Any:
    return field(default=default, metadata={"kind": kind, "help": meaning, "minimum": minimum, "maximum": maximum})


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Chunk k is due at arrival + pace · (ttft + k · itl), plus a stall, plus a jitter of its own. None means never.

    The pace is 1, or one for each request that wanders (`wander.py`).
    """

    ttft_ms: float = _option(20.0, float, "from the request's arrival to the first chunk, in ms")
    itl_ms: float = _option(5.0, float, "from one chunk to the next, in ms; 0 sends as fast as the client reads")
    tokens_per_chunk: int = _option(1, int, "tokens in each chunk", minimum=1)
    output_tokens: int | None = _option(None, int, "tokens in an answer; default what the request asks for")
    jitter_ms: float = _option(0.0, float, "each chunk is up to this much later than due, uniformly, in ms")
    wander: float = _option(
        0.0, float, "how much its pace varies from one moment to the next: the deviation of its logarithm", maximum=2
    )
    wander_s: float = _option(
        1.0, float, "how long the pace stays alike, in s: its correlation falls by 1/e in that time"
    )
    seed: int = _option(0, int, "seed of the jitter, together with the request's id, and of the wandering pace")
    stall_at: int | None = _option(None, int, "the chunk, counted from 0, before which the answer stalls")
    stall_s: float = _option(1.0, float, "how long it stalls, in s")
    status: int = _option(200, int, "HTTP status of every answer", minimum=200, maximum=599)
    retry_after_s: int | None = _option(None, int, "sends Retry-After with an error status, in s")
    cut_after: int | None = _option(None, int, "chunks after which the connection is closed")
    error_after: int | None = _option(None, int, "chunks after which an error event ends the stream")
    malformed_after: int | None = _option(None, int, "chunks after which an event of broken JSON is sent")
    empty: bool = _option(False, bool, "answers HTTP 200 with an empty body")
    error_body: bool = _option(False, bool, "answers HTTP 200 with a JSON error body")
    no_done: bool = _option(False, bool, "ends streams without [DONE]")

    def changed(self, options: Mapping[str, Any]) -> Self:
        """A copy with `options` replaced. Raises ValueError with a sentence for a name or a value it cannot take."""
        known = {found.name: found for found in fields(self)}
        for name, value in options.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else "."
                raise ValueError(f"there is no option {name!r}, there are {', '.join(sorted(known))}{hint}")
            facts = known[name].metadata
            if value is None and known[name].default is None:
                continue
            kind, is_flag = facts["kind"], isinstance(value, bool)
            fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not is_flag)
            if not fits:
                raise ValueError(f"{name} must be a value like {_EXAMPLE[kind]}; got {value!r}.")
            if kind is not bool and not facts["minimum"] <= value <= facts["maximum"]:
                raise ValueError(
                    f"{name} must be between {facts['minimum']:g} and {facts['maximum']:g}; got {value!r}."
                )
        return replace(self, **options)


_EXAMPLE = {int: "3", float: "2.5", bool: "true"}
OPTIONS = {found.name: found for found in fields(Behaviour)}
