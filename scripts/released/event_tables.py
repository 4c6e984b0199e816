"""The tables of docs/events.md, made from the shapes: one for the envelope, one a tag."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from scripts.released.event_shapes import Shape

BEGIN: Final = "<!-- tables: written by scripts/release_events.py -->"
END: Final = "<!-- end of tables -->"
_BETWEEN: Final = re.compile(f"(?<={re.escape(BEGIN)}\n).*(?={re.escape(END)})", re.DOTALL)


def filled(text: str, lock: Mapping[str, Mapping[str, Any]]) -> str:
    """The document with its tables as `lock` has them. Raises ValueError if it has no place."""
    if _BETWEEN.search(text) is None:
        raise ValueError(f"the document has no line {BEGIN}")
    return _BETWEEN.sub(lambda _: "\n".join(_tables(lock["events"])) + "\n", text)


def _tables(events: Mapping[str, Shape]) -> Iterator[str]:
    for tag in sorted(events):
        yield f"\n### `{tag}`\n"
        if not events[tag]:
            yield "No fields."
            continue
        yield "| field | type | left out if | content |"
        yield "|---|---|---|---|"
        for name, field in events[tag].items():
            default = f"`{json.dumps(field['default'])}`" if "default" in field else "never"
            sealed = "sealed" if field.get("sealed") else ""
            yield f"| `{name}` | {_words(field['type'])} | {default} | {sealed} |"


def _words(kind: Any) -> str:
    match kind:
        case str():
            return kind
        case {"one of": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"list of": item}:
            return f"list of {_words(item)}"
        case {"either": kinds}:
            return " or ".join(_words(one) for one in kinds)
        case {"fields": fields}:
            return "{" + "; ".join(_field(name, field) for name, field in fields.items()) + "}"
    raise TypeError(f"no words for the type {kind}")


def _field(name: str, field: Mapping[str, Any]) -> str:
    left_out = f" ({json.dumps(field['default'])})" if "default" in field else ""
    return f"`{name}`: {_words(field['type'])}{left_out}"
