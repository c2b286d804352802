"""When a request that failed is sent again."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from llmbench.workloads.base import Flag, Frozen, Positive, Seed, refuse

# What a measurement calls its failures, but for a request that was cancelled.
RetriedKind = Literal[
    "dns",
    "connect",
    "tls",
    "connect_timeout",
    "first_token_timeout",
    "idle_timeout",
    "total_timeout",
    "http_status",
    "rate_limited",
    "server_error",
    "truncated",
    "malformed",
]


class RetrySpec(Frozen):
    """Each attempt is a row, and the latency of a request runs from when its first attempt was due."""

    attempts: Annotated[int, Strict(), Field(ge=2, le=100)] = Field(
        default=3, description="How often a request is sent at most, the first time included; default 3."
    )
    on: Annotated[tuple[RetriedKind, ...], Field(min_length=1)] = Field(
        default=("connect", "connect_timeout", "rate_limited", "http_status"),
        description="The kinds of failure after which it is sent again; `http_status` stands for 5xx answers alone, as "
        "a question that was refused would be refused again. Default connect, connect_timeout, rate_limited, "
        "http_status.",
    )
    backoff: Literal["fixed", "exponential"] = Field(
        default="exponential", description="Whether the wait doubles with each attempt; default exponential."
    )
    wait_s: Annotated[Positive, Field(le=3600)] = Field(
        default=0.5, description="From a failure to the second attempt, in s; default 0.5."
    )
    max_wait_s: Annotated[Positive, Field(le=3600)] = Field(
        default=30.0,
        description="No wait is longer, in s; a request for which the server asks for a longer one is given up. "
        "Default 30.",
    )
    jitter: Annotated[float, Strict(), Field(ge=0, le=1)] = Field(
        default=0.5,
        description="The share of each wait that is random: 0.5 waits between half of it and all of it. Default 0.5.",
    )
    seed: Seed = Field(default=0, description="Seed of the jitter; default 0.")
    honour_retry_after: Flag = Field(
        default=True, description="Wait at least as long as the answer's Retry-After asks; default true."
    )

    @model_validator(mode="after")
    def _check_waits(self) -> Self:
        if self.wait_s > self.max_wait_s:
            refuse("wait_s", f"given {self.wait_s:g}, which is more than max_wait_s, {self.max_wait_s:g}")
        return self
