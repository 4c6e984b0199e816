"""What the log may hold, as data: the shape of the envelope and of the event behind every tag."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import inspect

from runs_domain.events import SEALED, TYPES, Event
from runs_domain.storage.codec import Envelope

Shape: TypeAlias = dict[str, Any]
"""Stored name of each field → `type`, `default` unless it is required, `sealed` if it is content.

A type is a word, or `{"one of": …}`, `{"list of": …}`, `{"either": …}`, `{"fields": …}`.
"""

_WORDS: Final[Mapping[type[inspect.Type], str]] = {
    inspect.AnyType: "any",
    inspect.BoolType: "boolean",
    inspect.DateTimeType: "time",
    inspect.DictType: "object",
    inspect.IntType: "integer",
    inspect.NoneType: "null",
    inspect.RawType: "object",
    inspect.StrType: "text",
    inspect.UUIDType: "uuid",
}


def envelope() -> Shape:
    return shape_of(Envelope)


def events() -> dict[str, Shape]:
    """By tag, every one that this release writes."""
    return {tag: event_shape(kind) for tag, kind in TYPES.items()}


def event_shape(kind: type[Event]) -> Shape:
    shape = shape_of(kind)
    for field in msgspec.structs.fields(kind):
        if field.name in SEALED.get(kind, ()):
            shape[field.encode_name]["sealed"] = True
    return shape


def shape_of(kind: type[msgspec.Struct]) -> Shape:
    """Raises TypeError for what this description has no word for."""
    described = inspect.type_info(kind)
    if not isinstance(described, inspect.StructType):
        raise TypeError(f"{kind.__name__} is not stored as an object")
    return _fields(described)


def _fields(described: inspect.StructType) -> Shape:
    if described.tag is not None or described.array_like or described.forbid_unknown_fields:
        raise TypeError(f"{described.cls.__name__} is not stored as a plain object")
    return {field.encode_name: _field(field) for field in described.fields}


def _field(field: inspect.Field) -> dict[str, Any]:
    shape = {"type": _type(field.type)}
    if field.default_factory is not msgspec.NODEFAULT:
        shape["default"] = _as_json(field.default_factory())
    elif not field.required:
        shape["default"] = _as_json(field.default)
    return shape


def _as_json(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _type(kind: inspect.Type) -> Any:
    match kind:
        case inspect.LiteralType(values=values):
            return {"one of": sorted(values)}
        case inspect.UnionType(types=types):
            return {"either": [_type(one) for one in types]}
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return {"list of": _type(item)}
        case inspect.StructType():
            return {"fields": _fields(kind)}
        case inspect.DictType(key_type=inspect.StrType(), value_type=inspect.AnyType()):
            return "object"
        case _ if kind == type(kind)():
            # Without a constraint: an equal type has none.
            word = _WORDS.get(type(kind))
            if word is not None:
                return word
    raise TypeError(f"scripts/released/event_shapes.py has no word for {type(kind).__name__}")


# ------------------------------------------------------------------------------ comparing


def differences(before: Shape, after: Shape, within: str = "") -> Iterator[tuple[str, str]]:
    """The path of each field that is not the same, and what is: `layout.frame`, "is gone"."""
    for name in (*before, *(name for name in after if name not in before)):
        path = f"{within}{name}"
        if name not in after:
            yield path, "is gone"
        elif name not in before:
            yield path, "was not there when it was released"
        elif before[name] != after[name]:
            yield from _field_differences(before[name], after[name], path)


def _field_differences(
    before: Mapping[str, Any], after: Mapping[str, Any], path: str
) -> Iterator[tuple[str, str]]:
    inner_before, inner_after = _inside(before["type"]), _inside(after["type"])
    if before["type"] != after["type"] and inner_before and inner_after:
        yield from differences(inner_before, inner_after, f"{path}.")
    elif before["type"] != after["type"]:
        yield path, f"had {_told(before, 'type')} and has {_told(after, 'type')}"
    for word in ("default", "sealed"):
        if before.get(word, ...) != after.get(word, ...):
            yield path, f"had {_told(before, word)} and has {_told(after, word)}"


def _inside(kind: Any) -> Shape | None:
    """The fields of the one object that a type holds somewhere."""
    match kind:
        case {"fields": fields}:
            found: Shape = fields
            return found
        case {"list of": item}:
            return _inside(item)
        case {"either": [item, "null"]}:
            return _inside(item)
    return None


def _told(field: Mapping[str, Any], word: str) -> str:
    return f"{word} {json.dumps(field[word])}" if word in field else f"no {word}"
