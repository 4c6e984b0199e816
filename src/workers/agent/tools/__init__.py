"""What the model can call. One file a tool; `tool.py` is the contract, `run_tool.py` the fence."""

from workers.agent.tools.registry import Tools, default_tools
from workers.agent.tools.run_tool import run_tool
from workers.agent.tools.tool import Tool, ToolContext, ToolError, ToolFailed, ToolResult

__all__ = [
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolFailed",
    "ToolResult",
    "Tools",
    "default_tools",
    "run_tool",
]
