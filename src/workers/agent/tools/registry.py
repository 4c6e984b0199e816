"""The tools of a run, by name."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from runs_domain.model_port import ToolSpec
from workers.agent.tools.bash import Bash
from workers.agent.tools.read import Read
from workers.agent.tools.tool import Tool, ToolInput
from workers.agent.tools.write import Write

_REFERENCE: Final = "#/$defs/{name}"


class Tools:
    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def names(self) -> tuple[str, ...]:
        return tuple(self._tools)

    def is_repeatable(self, name: str) -> bool:
        """False for an unknown one."""
        tool = self._tools.get(name)
        return tool is not None and tool.repeatable

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told."""
        return tuple(
            ToolSpec(
                name=tool.name,
                description=tool.description,
                input_schema=input_schema(tool.input_type),
            )
            for tool in self._tools.values()
        )


def default_tools() -> Tools:
    return Tools((Bash(), Read(), Write()))


def input_schema(kind: type[ToolInput]) -> dict[str, Any]:
    """JSON Schema of an object, self-contained."""
    (reference,), parts = msgspec.json.schema_components((kind,), ref_template=_REFERENCE)
    schema: dict[str, Any] = parts.pop(reference["$ref"].rpartition("/")[2])
    return {**schema, "$defs": parts} if parts else schema
