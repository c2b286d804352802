"""Secrets taken out of what is stored: results are made to be shared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

HIDDEN = "[hidden]"

# `token` and not `tokens`: --max-num-batched-tokens is no secret. `api_key_env` names a variable and holds no key.
_SECRET_NAME = re.compile(
    r"(?:^|[-_.])(?:(?:api|access|secret|private)[-_]?key|key|secret|password|passwd|token|auth)$"
)


def is_secret_name(name: str) -> bool:
    """Whether a variable, field or option of this name holds a secret: HF_TOKEN, --api-key, settings.password."""
    return _SECRET_NAME.search(name.lower()) is not None


class Redactor:
    """Hides the values that stand under a secret's name, and `secrets` wherever they stand."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Longest first: one may contain another. A short word would also be hidden where it means something else.
        self._secrets = sorted((secret for secret in secrets if len(secret) >= 6), key=len, reverse=True)

    def text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def argv(self, argv: Sequence[str]) -> tuple[str, ...]:
        """`--api-key X`, `--api-key=X` and `--set engines.0.env.HF_TOKEN=X` without X."""
        shown: list[str] = []
        hide_next = False
        for argument in argv:
            name, equals, _ = argument.partition("=")
            if hide_next and not argument.startswith("--"):
                shown.append(HIDDEN)
            elif equals and is_secret_name(name):
                shown.append(f"{name}={HIDDEN}")
            else:
                shown.append(self.text(argument))
            hide_next = argument.startswith("-") and not equals and is_secret_name(name)
        return tuple(shown)

    def json(self, value: JsonValue, name: str = "") -> JsonValue:
        """`value` with the same shape; lists of strings are taken for command lines."""
        if isinstance(value, str):
            return HIDDEN if is_secret_name(name) else self.text(value)
        if isinstance(value, Mapping):
            return {key: self.json(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            texts = [item for item in value if isinstance(item, str)]
            if len(texts) == len(value):
                return list(self.argv(texts))
            return [self.json(item, name) for item in value]
        return value


def secrets_in_env(env: Mapping[str, str]) -> list[str]:
    """The values that stand under a secret's name."""
    return [value for name, value in env.items() if is_secret_name(name)]
