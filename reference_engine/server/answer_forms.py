"""The fields by which a request asks for an answer of a given form: OpenAI's response_format, and vLLM's."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from llmbench.reference_engine import guidance
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.server.errors import ApiError

MAX_CHOICES_OF_TEXT = 256


def described(expected: str) -> WrapValidator:
    """One sentence for a union, where pydantic would list what every member of it lacks."""

    def check(value: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(f"must be {expected}") from None

    return WrapValidator(check)


STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

# A schema, or the text of one.
Schema = Annotated[
    dict[str, Any] | Json[dict[str, Any]], described("a JSON Schema as an object, or the text of such an object")
]
Texts = Annotated[
    list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES_OF_TEXT)
]


class NamedSchema(BaseModel):
    """OpenAI's wrapping of a schema. `strict` may be anything: an answer always keeps to its schema."""

    model_config = STRICT

    name: str
    json_schema: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class PlainFormat(BaseModel):
    model_config = STRICT

    type: Literal["text", "json_object"]


class SchemaFormat(BaseModel):
    model_config = STRICT

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")]


class StructuredOutputs(BaseModel):
    """vLLM's. One of them is given; `json_object: false` is none."""

    model_config = STRICT

    json_form: Schema | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: Texts | None = None


def grammar_of(
    response_format: PlainFormat | SchemaFormat | None, structured: StructuredOutputs | None, **guided: Any
) -> str | None:
    """The form that these fields ask for, None for any; `guided` are vLLM's older guided_json, _regex and _choice.

    Raises ApiError 400 that names the field, for a form that cannot be kept and for two of them.
    """
    asked: dict[str, tuple[Callable[[Any], str], Any]] = {}
    if isinstance(response_format, SchemaFormat):
        asked["response_format"] = (guidance.json_grammar, response_format.json_schema.json_schema)
    elif response_format is not None and response_format.type == "json_object":
        asked["response_format"] = (guidance.json_grammar, {"type": "object"})
    if structured is not None:
        if structured.json_object:
            asked["structured_outputs.json_object"] = (guidance.json_grammar, {"type": "object"})
        forms = {"json": structured.json_form, "regex": structured.regex, "choice": structured.choice}
        asked |= {
            f"structured_outputs.{name}": (_MAKERS[name], form) for name, form in forms.items() if form is not None
        }
    asked |= {name: (_MAKERS[name.removeprefix("guided_")], form) for name, form in guided.items() if form is not None}
    if not asked:
        return None
    if len(asked) > 1:
        message = f"An answer has one form; {' and '.join(asked)} were given."
        raise ApiError(HTTPStatus.BAD_REQUEST, message, next(iter(asked)))
    ((name, (make, form)),) = asked.items()
    if find_spec("llguidance") is None:
        message = f'{name} needs llguidance, which this server does not have: pip install "llmbench[guided]"'
        raise ApiError(HTTPStatus.BAD_REQUEST, message, name)
    try:
        return make(form)
    except RequestError as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"The parameter {name!r}: {error}", name) from None


_MAKERS: dict[str, Callable[[Any], str]] = {
    "json": guidance.json_grammar,
    "regex": guidance.regex_grammar,
    "choice": guidance.choice_grammar,
}
