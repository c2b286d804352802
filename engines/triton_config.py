"""A model's own configuration, asked of Triton before the first request: does it have the tensors that we use?

Without this, a name that is wrong becomes by HTTP a parameter of the request, which nobody minds and nothing obeys.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from llmbench.engines.server_message import parse_json


def problem_with(
    config: bytes, model: str, sent: Collection[str], read: Iterable[str], *, may_be_given: Collection[str] = ()
) -> str | None:
    """What keeps a model with this configuration from taking the inputs `sent` and giving the outputs `read`, as a
    sentence; None if nothing. A configuration that cannot be understood is no problem.

    `may_be_given` are sent as well, and are parameters of the request where they are no inputs.
    """
    try:
        found = parse_json(config)
        inputs = {tensor["name"]: bool(tensor.get("optional")) for tensor in found["input"]}
        outputs = [tensor["name"] for tensor in found["output"]]
    except (ValueError, TypeError, KeyError):
        return None
    for name in sent:
        if name not in inputs:
            return f"The model {model} of triton has no input {name!r}; {_known(name, inputs)}"
    for name in read:
        if name not in outputs:
            return f"The model {model} of triton has no output {name!r}; {_known(name, outputs)}"
    missing = [name for name, is_optional in inputs.items() if not is_optional and name not in {*sent, *may_be_given}]
    if missing:
        return (
            f"The model {model} of triton requires the input {missing[0]!r}, which is not sent: give it a value in "
            "settings.extra_body, or its name in settings.schema."
        )
    return None


def _known(name: str, names: Iterable[str]) -> str:
    known = sorted(names)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"it has {', '.join(known)}{hint}. settings.schema says what is sent and read."
