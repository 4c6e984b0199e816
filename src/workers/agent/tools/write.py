"""The tool `write`: a whole file in the workspace."""

from typing import Annotated

from msgspec import Meta

from runs_domain.events import Json
from workers.agent.tools.paths import teaching
from workers.agent.tools.tool import ToolContext, ToolFailed, ToolInput


class WriteInput(ToolInput, frozen=True):
    file_path: Annotated[
        str, Meta(min_length=1, description="The file, relative to the workspace or absolute.")
    ]
    content: Annotated[str, Meta(description="All of the file's text.")]


class Write:
    name = "write"
    description = (
        "Write a file in the workspace, replacing what it held. Folders above it are made. "
        "Answers with bytesWritten."
    )
    input_type = WriteInput
    repeatable = False

    async def run(self, given: WriteInput, context: ToolContext) -> Json:
        try:
            content = given.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ToolFailed("The content is not valid Unicode: a half surrogate pair.") from error
        sandbox = await context.sandbox()
        with teaching(given.file_path):
            await sandbox.write(given.file_path, content)
        return {"bytesWritten": len(content)}
