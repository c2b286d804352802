"""What an engine is to llmbench: a codec, a way to start it, and facts about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from llmbench.engines.metric_map import MetricMap
from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest, Timeline, WireRequest

CountTokens = Callable[[str], int]


class EngineError(Exception):
    """An engine cannot be used as asked: what is wrong, and what would be right."""


class MissingPackageError(EngineError):
    """A package that this engine needs is not installed; the message holds the pip command that mends it."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Facts the harness asks about instead of asking for an engine's name.

    An engine without `streaming` answers in one piece whatever a request asks for, and has no times of tokens.
    `metrics` says what the engine tells Prometheus of itself; None where it tells nothing.
    """

    streaming: bool = True
    chat: bool = True
    ignore_eos: bool = True
    exact_token_counts: bool = False
    metrics: MetricMap | None = None


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a workload says about one engine. `model` is a checkpoint folder or the name the server knows it by."""

    name: str
    model: str
    model_path: str | None = None
    url: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    startup_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What an engine's log says of how it computes: on the last line that has `mark`, as `name=value`.

    `names` has, by the engine's name for it, what llmbench calls it.
    """

    mark: str
    names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """How to start an engine, as data.

    `ready_path` answers 200 to an HTTP request once others may be sent; `ready_port`, where that is not the port that
    the others go to. `metrics_port` is where its metrics are, where that is neither that port nor the engine's usual.
    `log_facts` says where its log tells what it computes with; None where it does not.
    """

    argv: tuple[str, ...]
    endpoint: Endpoint
    env: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/health"
    ready_port: int | None = None
    metrics_port: int | None = None
    startup_timeout_s: float = 120.0
    log_facts: LogFacts | None = None


class Adapter(Protocol):
    """One engine. `encode` and `decode` are pure: no clock, no socket, no file."""

    name: str
    capabilities: Capabilities

    def encode(self, request: GenerationRequest, endpoint: Endpoint) -> WireRequest:
        """Bytes ready to send. Raises EngineError for a request this engine has no way to express."""
        ...

    def decode(
        self, request: GenerationRequest, timeline: Timeline, count_tokens: CountTokens | None = None
    ) -> DecodedAnswer:
        """The answer understood. Never raises on what a server sent: malformed bytes become a `Failure`.

        `count_tokens` counts the tokens of a text, for engines that do not say how many they sent.
        """
        ...

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        """How to start the engine on loopback `port`; None when it is only attached to by `options.url`."""
        ...
