"""The readable content beside the events: lines about them, in their order.

That it is what was sealed can be told only by whoever has the account's key; what stands in clear
in an event stands in its content too, and is compared.
"""

import json
from collections.abc import Iterator
from typing import Any

from bundle_check.bundle import shown, strict_object
from bundle_check.files import Tell

from runs_domain.proof_shapes import SHAPES


class ContentBeside:
    """One part's. After the first line that does not fit, no more of the part is compared."""

    def __init__(self, name: str, lines: Iterator[bytes], tell: Tell, *, all_erased: bool) -> None:
        """`all_erased`: the account's key was destroyed when the export began."""
        self._name = name
        self._lines = lines
        self._tell = tell
        self._all_erased = all_erased
        self._number = 0
        self._lost = False

    def take(self, event_id: str, envelope: dict[str, Any]) -> None:
        """The next event that has something sealed, as it is stored."""
        if self._lost:
            return
        line = next(self._lines, None)
        self._number += 1
        wrong = self._wrong(line, event_id, envelope)
        if wrong is not None:
            self._lost = True
            self._tell(f"{self._name}: line {self._number}: {wrong}")

    def end(self) -> None:
        left = sum(1 for _ in self._lines)  # to the file's end, which tells of the whole file
        if left and not self._lost:
            self._tell(f"{self._name} has {left} lines more than there are events with content")

    def _wrong(self, line: bytes | None, event_id: str, envelope: dict[str, Any]) -> str | None:
        if line is None:
            return f"it is missing: the content of {event_id}"
        try:
            said = strict_object(line)
        except ValueError as error:
            return str(error)
        if said.get("id") != event_id:
            return f"it is about {shown(said.get('id'))}, and {event_id} comes next"
        if said.keys() == {"id", "unreadable"} and said["unreadable"] is True:
            return f"the content of {event_id} could not be unsealed when it was exported"
        erased = self._all_erased or envelope.get("sealed") == ""
        if erased:
            is_so = said.keys() == {"id", "erased"} and said["erased"] is True
            return None if is_so else f"{event_id} is erased, and this says otherwise"
        data, clear = said.get("data"), envelope.get("data")
        if said.keys() != {"id", "data"} or type(data) is not dict:
            return f"it does not give the data of {event_id}"
        if type(clear) is not dict:
            return None
        # What the event leaves out stands at its default: content does not say otherwise either.
        shape = SHAPES.get(str(envelope.get("type")))
        known = clear.keys() if shape is None else clear.keys() | shape.checks.keys()
        repeated = {name: data[name] for name in data if name in known}
        if _text(repeated) != _text(clear):
            return f"it says otherwise than {event_id} itself"
        return None


def _text(value: dict[str, Any]) -> str:
    """Unlike == it tells 1 from 1.0 and from true."""
    return json.dumps(value, sort_keys=True)
