"""How long prompts and answers are: distributions over whole numbers of tokens.

Every kind yields integers of at least 1. `normal` and `lognormal` are truncated, not clipped: a length outside
`min … max` is never drawn and the probability mass outside is spread over the rest, so no spike stands at either end.
Truncation moves the mean; with bounds two standard deviations away it moves by a few percent.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, Strict, model_validator

from llmbench.workloads.base import MAX_TOKENS, Frozen, NonNegative, Positive, Text, TokenCount, refuse
from llmbench.workloads.errors import WorkloadError, reason_of

if TYPE_CHECKING:
    import numpy as np

# Below this share of the untruncated distribution, min … max has missed the distribution that was asked for.
SMALLEST_SHARE = 1e-6


class FixedLengths(Frozen):
    """Every length is `value`. A bare number in place of the mapping means the same."""

    kind: Literal["fixed"] = "fixed"
    value: TokenCount = Field(description="The length of each, in tokens.")


class UniformLengths(Frozen):
    """Every whole number from `min` to `max`, both included, equally often."""

    kind: Literal["uniform"] = "uniform"
    min: TokenCount = Field(description="The smallest length, in tokens.")
    max: TokenCount = Field(description="The largest length, in tokens; included.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            refuse("min", f"given {self.min}, allowed: at most max, which is {self.max}")
        return self


class _TruncatedLengths(Frozen):
    mean: Annotated[Positive, Field(le=MAX_TOKENS)] = Field(
        description="The mean length before truncation to min … max, in tokens."
    )
    stddev: Annotated[Positive, Field(le=MAX_TOKENS)] = Field(
        description="The standard deviation of the lengths before truncation, in tokens; for 0 use kind: fixed."
    )
    min: TokenCount = Field(default=1, description="No length is below this, in tokens; default 1.")
    max: TokenCount | None = Field(default=None, description="No length is above this, in tokens; default no limit.")

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.max is not None and self.min > self.max:
            refuse("min", f"given {self.min}, allowed: at most max, which is {self.max}")
        low, high = self.probability_range()
        if high - low < SMALLEST_SHARE:
            end = "no limit" if self.max is None else self.max
            refuse(
                None,
                f"min … max, {self.min} … {end}, leaves out practically all of a distribution with mean {self.mean:g} "
                f"and stddev {self.stddev:g}; widen it or move the mean",
            )
        return self

    @abstractmethod
    def standardised(self, tokens: float) -> float:
        """How many standard deviations of the underlying normal `tokens` lies above its mean."""

    @abstractmethod
    def tokens_at(self, z: float) -> float:
        """The inverse of `standardised`."""

    def probability_range(self) -> tuple[float, float]:
        """The cumulative probabilities at both ends. Half a token is added on each side, as rounding will take off."""
        normal = NormalDist()
        high = 1.0 if self.max is None else normal.cdf(self.standardised(self.max + 0.5))
        return normal.cdf(self.standardised(self.min - 0.5)), high


class NormalLengths(_TruncatedLengths):
    """Normal lengths, truncated to `min … max` and rounded."""

    kind: Literal["normal"] = "normal"

    def standardised(self, tokens: float) -> float:
        return (tokens - self.mean) / self.stddev

    def tokens_at(self, z: float) -> float:
        return self.mean + z * self.stddev


class LogNormalLengths(_TruncatedLengths):
    """Log-normal lengths, truncated to `min … max` and rounded: many short, few long, as in real traffic.

    `mean` and `stddev` are those of the lengths themselves, not of their logarithms.
    """

    kind: Literal["lognormal"] = "lognormal"

    def _log_moments(self) -> tuple[float, float]:
        variance = math.log1p((self.stddev / self.mean) ** 2)
        return math.log(self.mean) - variance / 2, math.sqrt(variance)

    def standardised(self, tokens: float) -> float:
        mu, sigma = self._log_moments()
        return (math.log(tokens) - mu) / sigma

    def tokens_at(self, z: float) -> float:
        mu, sigma = self._log_moments()
        return math.exp(min(mu + z * sigma, 700.0))


class EmpiricalLengths(Frozen):
    """Lengths drawn with replacement from `values`, or from the file `path`.

    The file holds one length per line, optionally followed by a comma or blanks and a weight; `#` starts a comment.
    """

    kind: Literal["empirical"] = "empirical"
    values: tuple[TokenCount, ...] | None = Field(default=None, description="The lengths to draw from, in tokens.")
    weights: tuple[NonNegative, ...] | None = Field(
        default=None, description="How often each of `values` is drawn, in any unit; default equally often."
    )
    path: Text | None = Field(
        default=None, description="A file of lengths, one per line, in place of `values`; relative to the workload."
    )

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.values is None) == (self.path is None):
            refuse(None, "give either `values` or `path`, and not both")
        if self.values is not None and not self.values:
            refuse("values", "given an empty list, allowed: at least one length")
        if self.weights is not None:
            if self.values is None:
                refuse("weights", "weights go with `values`; in a file they stand in the second column")
            if len(self.weights) != len(self.values):
                refuse("weights", f"given {len(self.weights)} weights, allowed: {len(self.values)}, one for each value")
            if not 0 < math.fsum(self.weights) < math.inf:
                refuse("weights", "the weights must have a sum above 0 that is finite")
        return self


AnyLengths = Annotated[
    FixedLengths | UniformLengths | NormalLengths | LogNormalLengths | EmpiricalLengths, Field(discriminator="kind")
]


def _number_is_fixed(value: object) -> object:
    return {"kind": "fixed", "value": value} if isinstance(value, int) and not isinstance(value, bool) else value


Lengths = Annotated[
    AnyLengths,
    BeforeValidator(
        _number_is_fixed,
        json_schema_input_type=Annotated[int, Strict(), Field(ge=1, le=MAX_TOKENS)] | AnyLengths,
    ),
]


def smallest(lengths: Lengths) -> int | None:
    """The smallest length that can be drawn, in tokens; None when it stands in a file that has not been read."""
    match lengths:
        case FixedLengths(value=value):
            return value
        case EmpiricalLengths(values=values):
            return None if values is None else min(values)
        case _:
            return lengths.min


def largest(lengths: Lengths) -> int | None:
    """The largest length that can be drawn, in tokens; None when there is no limit or it stands in a file."""
    match lengths:
        case FixedLengths(value=value):
            return value
        case EmpiricalLengths(values=values):
            return None if values is None else max(values)
        case _:
            return lengths.max


def sample(lengths: Lengths, count: int, generator: np.random.Generator) -> tuple[int, ...]:
    """`count` lengths in tokens. Raises WorkloadError when a file of lengths cannot be read."""
    match lengths:
        case FixedLengths(value=value):
            return (value,) * count
        case UniformLengths(min=low, max=high):
            return tuple(int(length) for length in generator.integers(low, high, size=count, endpoint=True))
        case EmpiricalLengths(values=values, weights=weights, path=path):
            if path is not None:
                values, weights = read_lengths(path)
            assert values is not None
            return _draw(values, weights, count, generator)
        case _:
            return _truncated(lengths, count, generator)


def _truncated(
    lengths: NormalLengths | LogNormalLengths, count: int, generator: np.random.Generator
) -> tuple[int, ...]:
    # Inverse of the cumulative distribution between the two ends: exact truncation with one uniform number per length,
    # where redrawing until a length fits could take forever.
    normal = NormalDist()
    low, high = lengths.probability_range()
    ceiling = MAX_TOKENS if lengths.max is None else lengths.max
    drawn = []
    for uniform in generator.random(count):
        probability = min(max(low + float(uniform) * (high - low), 1e-300), 1 - 1e-16)
        tokens = round(min(lengths.tokens_at(normal.inv_cdf(probability)), ceiling))
        drawn.append(min(max(tokens, lengths.min), ceiling))
    return tuple(drawn)


def _draw(
    values: tuple[int, ...], weights: tuple[float, ...] | None, count: int, generator: np.random.Generator
) -> tuple[int, ...]:
    if weights is None:
        return tuple(values[index] for index in generator.integers(0, len(values), size=count))
    import numpy as np

    cumulative = np.array(list(itertools.accumulate(weights)))
    # side="right" never picks a weight of 0: its step in the cumulative sum has no width.
    picks = np.searchsorted(cumulative, generator.random(count) * cumulative[-1], side="right")
    return tuple(values[int(index)] for index in picks)


def read_lengths(path: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The lengths and weights in a file. Raises WorkloadError with the line at fault."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise WorkloadError(f"{path}: the file of lengths cannot be read: {reason_of(error)}") from error
    values: list[int] = []
    weights: list[float] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.partition("#")[0].replace(",", " ").split()
        if not fields:
            continue
        try:
            value, weight = int(fields[0]), float(fields[1]) if len(fields) > 1 else 1.0
        except ValueError:
            value, weight = 0, -1.0
        if len(fields) > 2 or not 1 <= value <= MAX_TOKENS or not 0 <= weight < math.inf:
            raise WorkloadError(
                f"{path}:{number}: given {line.strip()!r}, allowed: a length from 1 to {MAX_TOKENS}, "
                "then optionally a weight of 0 or more"
            )
        values.append(value)
        weights.append(weight)
    if not math.fsum(weights) > 0:
        raise WorkloadError(f"{path}: the file of lengths holds no length with a weight above 0")
    return tuple(values), tuple(weights)
