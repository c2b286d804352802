"""A checkpoint's chat template: messages to a prompt's text, as transformers renders them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmbench.reference_engine.errors import CheckpointError, RequestError

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# The template that is meant where a checkpoint has several.
_DEFAULT = "default"


class ChatTemplate:
    """`special_texts` are the checkpoint's special tokens, by the names that templates have for them."""

    def __init__(self, template: Template, special_texts: Mapping[str, str]) -> None:
        self._template = template
        self._special_texts = special_texts

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """The conversation up to where the assistant's answer begins. Raises RequestError if the template refuses it.

        `variables` are the request's own, and cannot take the place of the messages.
        """
        # There, though none of them is ever given: some templates ask whether they are none.
        told = {**self._special_texts, "tools": None, "documents": None, **variables}
        try:
            return self._template.render({**told, "messages": messages, "add_generation_prompt": True})
        except Exception as error:  # a template may do anything to its messages, such as add a text to a number
            raise RequestError(f"The model's chat template refuses these messages: {error}") from None


def read_chat_template(folder: Path, config: Mapping[str, Any]) -> ChatTemplate | None:
    """Of a checkpoint's folder with this tokenizer_config.json; None if it has none. Raises CheckpointError."""
    # Newer checkpoints keep it in a file of its own, which goes before the field.
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if isinstance(source, list):
        named = {each.get("name"): each.get("template") for each in source if isinstance(each, dict)}
        source = named.get(_DEFAULT)
    if not isinstance(source, str):
        return None
    special_texts = {name: text for name in _SPECIAL if (text := _text(config.get(name)))}
    try:
        return ChatTemplate(_sandbox().from_string(source), special_texts)
    except TemplateError as error:
        raise CheckpointError(f"{folder}: chat_template is not a jinja2 template: {error}") from None


class _Generation(Extension):
    """{% generation %} … {% endgeneration %} marks what a training learns from; a prompt has it as any other text."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own class has it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _sandbox() -> ImmutableSandboxedEnvironment:
    # A checkpoint is a download: its template may not touch anything. Options as Hugging Face renders them.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.globals["raise_exception"] = _refuse
    # Some templates tell the model what day it is.
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    environment.filters["tojson"] = _to_json
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _text(token: object) -> str:
    # Older checkpoints store {"content": "<s>", …} in place of the text.
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
