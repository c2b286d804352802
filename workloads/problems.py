"""Pydantic's errors → sentences that name the place, the field, what was given and what is allowed.

What is allowed is read from the JSON Schema, so that the sentence, the editor's completion and the validation agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmbench.workloads.errors import FieldPath, Problem, did_you_mean, shorten

Schema = dict[str, Any]
Where = Callable[[FieldPath, bool], str]

_MISSING = object()


def problems_of(error: ValidationError, data: Any, schema: Schema, where: Where) -> list[Problem]:
    """One Problem per error. `where(path, at_key)` gives the position of the value, or of the key in front of it."""
    details = error.errors(include_url=False)
    # A default that hangs on another field is not at fault when that field is.
    details = [detail for detail in details if detail["type"] != "default_factory_not_called"]
    # A list whose only entry is wrong also counts as too short, as entries at fault do not count: say the cause alone.
    places = [detail["loc"] for detail in details]
    caused = [
        detail
        for detail in details
        if detail["type"] == "too_short" and any(_is_below(place, detail["loc"]) for place in places)
    ]
    found = [_problem(detail, data, schema, where) for detail in details if detail not in caused]
    return list(dict.fromkeys(found))


def _is_below(place: tuple[str | int, ...], other: tuple[str | int, ...]) -> bool:
    return len(place) > len(other) and place[: len(other)] == other


def dotted(path: FieldPath) -> str:
    return ".".join(str(part) for part in path)


def _problem(detail: ErrorDetails, data: Any, schema: Schema, where: Where) -> Problem:
    # What is wrong with the key of a mapping has this behind the key.
    at_key = detail["loc"][-1:] == ("[key]",)
    path, node = _walk(detail["loc"][:-1] if at_key else detail["loc"], schema)
    given = _value_at(data, path)
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        parent = _walk(detail["loc"][:-1], schema)[1]
        message = _sentence("unknown field", str(path[-1]), list(_first(parent, "properties", schema)["properties"]))
        at_key = True
    elif kind == "missing":
        message = f"this field is required; allowed: {_describe(node, schema)}"
    elif kind == "union_tag_not_found":
        path, kinds = (*path, "kind"), _kinds(node)
        message = f"this field is required; allowed: {', '.join(kinds)}"
    elif kind == "union_tag_invalid":
        path, kinds = (*path, "kind"), _kinds(node)
        given = _value_at(data, path)
        message = _sentence(f"given {shorten(given)}", str(given), kinds)
    elif kind == "workload":
        message = str(context["problem"])
        path = (*path, *_parts(str(context["field"]))) if "field" in context else path
    elif kind == "value_error":
        message = str(context["error"])
    else:
        message = _given_and_allowed(given, node, schema, detail)
    return Problem(where(path, at_key), message, f"field {dotted(path)!r}" if path else None)


def _sentence(problem: str, given: str, allowed: list[str]) -> str:
    return f"{problem}{did_you_mean(given, allowed) or ';'} allowed: {', '.join(allowed)}"


def _parts(field: str) -> FieldPath:
    return tuple(int(part) if part.isdecimal() else part for part in field.split("."))


def _given_and_allowed(given: Any, node: Schema, schema: Schema, detail: ErrorDetails) -> str:
    if given is _MISSING:
        return str(detail["msg"])
    guess = did_you_mean(given, _choices(node, schema)) if isinstance(given, str) else ""
    message = f"given {shorten(given)}{guess or ','} allowed: {_describe(node, schema)}"
    if detail["type"] == "string_type" and isinstance(given, bool | int | float):
        message += "; put it in quotes"
    return message


def _value_at(data: Any, path: FieldPath) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return data


def _walk(loc: Iterable[str | int], schema: Schema) -> tuple[FieldPath, Schema]:
    """The path in the YAML and the schema node that a pydantic location stands for.

    A location also names the variant chosen in each discriminated union; the path leaves those out.
    """
    path: list[str | int] = []
    node = schema
    for part in loc:
        node = _resolve(node, schema)
        if isinstance(part, int):
            path.append(part)
            node = _first(node, "items", schema).get("items", {})
            continue
        variant = _mapping(node).get(part)
        if variant is not None:
            node = _resolve({"$ref": variant}, schema)
            continue
        path.append(part)
        inner = _first(node, "properties", schema)
        if part in inner.get("properties", {}):
            node = inner["properties"][part]
        else:
            extra = _first(node, "additionalProperties", schema).get("additionalProperties", {})
            node = extra if isinstance(extra, dict) else {}
    return tuple(path), _resolve(node, schema)


def _resolve(node: Schema, schema: Schema) -> Schema:
    while "$ref" in node:
        node = {
            **schema["$defs"][node["$ref"].removeprefix("#/$defs/")],
            **{k: v for k, v in node.items() if k != "$ref"},
        }
    return node


def _branches(node: Schema, schema: Schema) -> list[Schema]:
    """The alternatives of a node, the node itself where it has none."""
    if "anyOf" not in node:
        return [node]
    return [leaf for branch in node["anyOf"] for leaf in _branches(_resolve(branch, schema), schema)]


def _first(node: Schema, keyword: str, schema: Schema) -> Schema:
    return next((branch for branch in _branches(node, schema) if keyword in branch), {})


def _mapping(node: Schema) -> dict[str, str]:
    for branch in [node, *node.get("anyOf", [])]:
        if "discriminator" in branch:
            mapping: dict[str, str] = branch["discriminator"]["mapping"]
            return mapping
    return {}


def _kinds(node: Schema) -> list[str]:
    return list(_mapping(node))


def _choices(node: Schema, schema: Schema) -> list[str]:
    found: list[str] = []
    for branch in _branches(node, schema):
        found += [str(choice) for choice in branch.get("enum", [])]
        if "const" in branch:
            found.append(str(branch["const"]))
    return found


def _describe(node: Schema, schema: Schema) -> str:
    """What a schema node allows, in words."""
    phrases = [_phrase(branch, schema) for branch in _branches(_resolve(node, schema), schema)]
    return ", or ".join(dict.fromkeys(phrases))


def _phrase(node: Schema, schema: Schema) -> str:
    if "enum" in node:
        return ", ".join(str(choice) for choice in node["enum"])
    if "const" in node:
        return str(node["const"])
    if "discriminator" in node:
        return f"a mapping with kind: {' | '.join(_kinds(node))}"
    match node.get("type"):
        case "integer":
            return f"a whole number{_range(node)}"
        case "number":
            return f"a number{_range(node)}"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "string":
            return _text_phrase(node)
        case "array":
            least = " with at least one entry, each" if node.get("minItems") else " of"
            return f"a list […]{least} {_describe(node.get('items', {}), schema)}"
        case "object":
            fields = ", ".join(node.get("properties", {}))
            if not fields and isinstance(node.get("additionalProperties"), dict):
                return "a mapping of `name: …`"
            return f"a mapping with the fields {fields}" if fields else "a mapping"
    return "any value"


def _text_phrase(node: Schema) -> str:
    limits = []
    if node.get("minLength"):
        limits.append("not empty")
    if "maxLength" in node:
        limits.append(f"at most {node['maxLength']} characters")
    if "pattern" in node:
        limits.append(f"matching {node['pattern']}")
    return f"text ({', '.join(limits)})" if limits else "text"


def _range(node: Schema) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {_plain(low)} to {_plain(high)}"
    limits = []
    if above is not None:
        limits.append(f"> {_plain(above)}")
    if low is not None:
        limits.append(f">= {_plain(low)}")
    if below is not None:
        limits.append(f"< {_plain(below)}")
    if high is not None:
        limits.append(f"<= {_plain(high)}")
    return " " + " and ".join(limits) if limits else ""


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"
