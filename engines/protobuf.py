"""Protobuf messages from tables of their fields, for servers whose .proto is not at hand. Needs llmbench[grpc]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

__all__ = ["DecodeError", "Message", "messages"]

# A field by its number and type: one of these, or the name of another message. A type in brackets is repeated.
Fields = Mapping[str, tuple[int, str | list[str]]]

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}


def messages(package: str, tables: Mapping[str, Fields]) -> dict[str, Any]:
    """A class per message of `tables`, by name. Fields that a table leaves out are skipped when read.

    A map<string, Value> is written as what it is on the wire: repeated messages with the fields key = 1 and value = 2.
    Scalars have presence, as the members of a oneof do: HasField tells 0 from nothing.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"llmbench/{package}.proto", package=package, syntax="proto2")
    for name, fields in tables.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if isinstance(kind, list):
                [kind] = kind
                field.label = _Field.LABEL_REPEATED
                # As proto3 writes repeated numbers; proto2 needs telling.
                field.options.packed = kind in _SCALARS and kind not in ("bytes", "string")
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}"
    # A pool of our own: the same messages may come from tritonclient in the same process.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in tables}
