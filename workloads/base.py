"""The model every part of a workload derives from, and the constrained numbers that they share."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

MAX_TOKENS = 10_000_000
MAX_REQUESTS = 1_000_000


def _require_kind(schema: dict[str, Any]) -> None:
    """Name `kind` among the required fields, as the discriminated unions do, so that an editor offers it first."""
    if "const" in schema.get("properties", {}).get("kind", {}):
        schema["required"] = ["kind", *(field for field in schema.get("required", []) if field != "kind")]
        schema["properties"]["kind"].pop("default", None)


class Frozen(BaseModel):
    """A part of a workload: immutable, and no field is accepted that is not declared."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=False,
        json_schema_extra=_require_kind,
    )


def refuse(field: str | None, problem: str) -> NoReturn:
    """Raise from a model validator: `field` of the model is at fault (None: the model as a whole)."""
    context = {"problem": problem} if field is None else {"problem": problem, "field": field}
    raise PydanticCustomError("workload", "{problem}", context)


def _number_as_text(value: object) -> object:
    """`env: {OMP_NUM_THREADS: 2}` means the text "2". A bool is left alone: `true` has no one spelling as text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


TokenCount = Annotated[int, Strict(), Field(ge=1, le=MAX_TOKENS)]
Count = Annotated[int, Strict(), Field(ge=1, le=MAX_REQUESTS)]
CountOrZero = Annotated[int, Strict(), Field(ge=0, le=MAX_REQUESTS)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
Positive = Annotated[float, Strict(), Field(gt=0)]
NonNegative = Annotated[float, Strict(), Field(ge=0)]
Rate = Annotated[float, Strict(), Field(gt=0, le=1e7)]
RateOrZero = Annotated[float, Strict(), Field(ge=0, le=1e7)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Field(min_length=1)]
Argument = Annotated[str, BeforeValidator(_number_as_text, json_schema_input_type=str | int | float)]
