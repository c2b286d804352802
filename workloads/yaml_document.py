"""YAML text → plain data in which every value knows its line and column.

Nothing is evaluated: only mappings, lists and the scalars of YAML 1.2's core schema exist, so `no`, `on` and
`2024-01-01` are text as they look. Duplicate keys, tags, recursion and documents that grow huge through aliases are
refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from llmbench.workloads.errors import FieldPath, Problem, WorkloadError

MAX_BYTES = 1024 * 1024
MAX_NODES = 100_000
MAX_DEPTH = 64

Mark = tuple[int, int]

_NULL = re.compile(r"(?:~|null|Null|NULL|)")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_TAG = "tag:yaml.org,2002:"
_PLAIN = "tag:plain"


class _Composer(yaml.SafeLoader):
    """PyYAML up to the node graph, with its YAML 1.1 guesses about plain scalars taken out."""

    yaml_implicit_resolvers: dict[Any, Any] = {None: [(_PLAIN, re.compile(""))]}  # noqa: RUF012  read from the class


@dataclass
class Document:
    """`data` is dicts, lists, str, int, float, bool and None. Lines and columns count from 1.

    `values` holds the position of each value by its path, `keys` that of the key in front of it.
    """

    source: str
    data: Any
    values: dict[FieldPath, Mark] = field(default_factory=dict)
    keys: dict[FieldPath, Mark] = field(default_factory=dict)

    def where(self, path: FieldPath, *, key: bool = False) -> str:
        """`source:line:column` of the value (or key) at `path`, or of the nearest thing around it."""
        if key and path in self.keys:
            return at(self.source, self.keys[path])
        while path and path not in self.values:
            path = path[:-1]
        return at(self.source, self.values.get(path, (1, 1)))


def at(source: str, mark: Mark) -> str:
    return f"{source}:{mark[0]}:{mark[1]}"


def _fail(source: str, mark: Mark, message: str) -> WorkloadError:
    return WorkloadError.of([Problem(at(source, mark), message)])


def _position(mark: yaml.Mark | None) -> Mark:
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def parse_bytes(raw: bytes, source: str) -> Document:
    """The document in a file's bytes. Raises WorkloadError with file, line and column."""
    if len(raw) > MAX_BYTES:
        raise WorkloadError(
            f"{source}: the file has {len(raw)} bytes, allowed: {MAX_BYTES}; keep data in files of its own"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", errors="replace")
        mark = (before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        raise _fail(
            source, mark, f"the byte 0x{raw[error.start]:02x} is not UTF-8; save the file in UTF-8 encoding"
        ) from error
    return parse_text(text, source)


def parse_text(text: str, source: str) -> Document:
    """The document in `text`; `data` is None where there is nothing but comments. Raises WorkloadError."""
    try:
        node = yaml.compose(text, Loader=_Composer)
    except yaml.MarkedYAMLError as error:
        mark = _position(error.problem_mark or error.context_mark)
        parts = [part for part in (error.context, error.problem, error.note) if part]
        raise _fail(source, mark, f"not valid YAML: {', '.join(parts)}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = (before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        raise _fail(source, mark, f"not valid YAML: the character {chr(_code(error))!r} is not allowed") from error
    except RecursionError as error:
        raise WorkloadError(f"{source}: not a workload: nested more than {MAX_DEPTH} levels deep") from error
    document = Document(source, None)
    if node is not None:
        document.data = _Builder(document).build(node, (), 0)
    return document


def _code(error: yaml.reader.ReaderError) -> int:
    character = error.character
    return character if isinstance(character, int) else ord(character)


class _Builder:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.num_nodes = 0

    def fail(self, node: yaml.Node, message: str) -> WorkloadError:
        return _fail(self.document.source, _position(node.start_mark), message)

    def build(self, node: yaml.Node, path: FieldPath, depth: int) -> Any:
        # Aliases share a node, and each use is counted here: a bomb of nested aliases ends at MAX_NODES, and an alias
        # to something around it ends at MAX_DEPTH.
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise self.fail(
                node, f"more than {MAX_NODES} values once aliases are filled in; keep data in files of its own"
            )
        if depth > MAX_DEPTH:
            raise self.fail(node, f"nested more than {MAX_DEPTH} levels deep; an alias may not contain itself")
        self.document.values[path] = _position(node.start_mark)
        if isinstance(node, yaml.MappingNode):
            self.check_tag(node, "map")
            return self.mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            self.check_tag(node, "seq")
            return [self.build(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
        return self.scalar(node)

    def check_tag(self, node: yaml.Node, expected: str) -> None:
        if node.tag not in (_TAG + expected, "!"):
            raise self.fail(node, f"the tag {node.tag.replace(_TAG, '!!')!r} is not supported; leave it out")

    def mapping(self, node: yaml.MappingNode, path: FieldPath, depth: int) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.fail(key_node, "a list or mapping stands where a field's name should be")
            key = key_node.value
            here = (*path, key)
            if key in built:
                first = at(self.document.source, self.document.keys[here])
                raise self.fail(key_node, f"the field {key!r} is given twice; the first is at {first}")
            self.document.keys[here] = _position(key_node.start_mark)
            built[key] = self.build(value_node, here, depth + 1)
        return built

    def scalar(self, node: yaml.Node) -> Any:
        if node.tag == _PLAIN:
            return self.plain(node, node.value)
        self.check_tag(node, "str")
        return node.value

    def plain(self, node: yaml.Node, text: str) -> Any:
        if _NULL.fullmatch(text):
            return None
        if _BOOL.fullmatch(text):
            return text.lower() == "true"
        try:
            if _INT.fullmatch(text):
                return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
            if _FLOAT.fullmatch(text):
                value = float(text)
                if math.isinf(value):
                    raise ValueError
                return value
        except ValueError:
            raise self.fail(node, f"the number {text[:20]}… is too large") from None
        if _INFINITE.fullmatch(text):
            return float(text.lower().replace(".", ""))
        return text
