"""A form that can be kept as far as anybody sees who does not follow it to its end, where no text goes on."""

from __future__ import annotations

from typing import Any

BROKEN: dict[str, Any] = {
    "type": "object",
    "properties": {"outlook for the week": {"$ref": "#/$defs/itself"}},
    "required": ["outlook for the week"],
    "additionalProperties": False,
    "$defs": {"itself": {"$ref": "#/$defs/itself"}},
}
