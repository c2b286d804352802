"""Values of a config.json by their kind. A reader raises CheckpointError that says what stands there and what may."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

from llmbench.reference_engine.errors import CheckpointError

# What a tensor's size can be; beyond it, products of two overflow.
LARGEST_INT = 2**31 - 1


def is_integer(value: object) -> TypeGuard[int]:
    """True for a JSON number without a fraction; Python takes true and false for integers too."""
    return isinstance(value, int) and not isinstance(value, bool)


def read_int(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if not is_integer(value) or value < 1:
        raise refuse(raw, key, "a positive integer")
    if value > LARGEST_INT:
        raise refuse(raw, key, f"a positive integer of no more than {LARGEST_INT}")
    return value


def read_float(raw: Mapping[str, Any], key: str, most: float = math.inf) -> float:
    """A finite number above 0, and no more than `most`."""
    value = raw.get(key)
    limit = "" if math.isinf(most) else f", no more than {most}"
    # An integer may be too large for a float: it is compared before it becomes one.
    if not (is_integer(value) or isinstance(value, float)) or not 0 < value <= min(most, sys.float_info.max):
        raise refuse(raw, key, f"a finite number above 0{limit}")
    return float(value)


def read_bool(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key)
    if not isinstance(value, bool):
        raise refuse(raw, key, "true or false")
    return value


def read_object(raw: Mapping[str, Any], key: str, file: object = "config.json") -> Mapping[str, Any]:
    """Empty where the key is absent or null."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise refuse(raw, key, "an object", file)
    return value


def read_list(raw: Mapping[str, Any], key: str) -> list[Any]:
    """Empty where the key is absent or null."""
    value = raw.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise refuse(raw, key, "a list")
    return value


def refuse(raw: Mapping[str, Any], key: str, wanted: str, file: object = "config.json") -> CheckpointError:
    """The error for a value that is not what is wanted."""
    found = f"{reprlib.repr(raw[key])} was found" if key in raw else "it is absent"
    return CheckpointError(f"{file}: {key} must be {wanted}; {found}.")
