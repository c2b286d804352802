"""How long a user reads and thinks before the next question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, Strict

from llmbench.workloads.base import Frozen, NonNegative, Positive

if TYPE_CHECKING:
    import numpy as np


class FixedThinking(Frozen):
    """Always as long. A bare number in place of the mapping means the same."""

    kind: Literal["fixed"] = "fixed"
    value: Annotated[NonNegative, Field(le=1e6)] = Field(description="The time, in s; 0 asks at once.")

    def sample(self, count: int, generator: np.random.Generator) -> list[float]:
        return [self.value] * count


class ExponentialThinking(Frozen):
    """Exponentially distributed: mostly short, sometimes long."""

    kind: Literal["exponential"] = "exponential"
    mean: Annotated[Positive, Field(le=1e6)] = Field(description="The mean time, in s.")

    def sample(self, count: int, generator: np.random.Generator) -> list[float]:
        return [float(value) for value in generator.standard_exponential(count) * self.mean]


AnyThinking = Annotated[FixedThinking | ExponentialThinking, Field(discriminator="kind")]


def _number_is_fixed(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"kind": "fixed", "value": value} if is_number else value


ThinkTime = Annotated[
    AnyThinking,
    BeforeValidator(
        _number_is_fixed, json_schema_input_type=Annotated[float, Strict(), Field(ge=0, le=1e6)] | AnyThinking
    ),
]
