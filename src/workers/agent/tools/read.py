"""The tool `read`: numbered lines of a file in the workspace."""

from typing import Annotated, Final

from msgspec import Meta

from runs_domain.events import Json
from workers.agent.tools.paths import teaching
from workers.agent.tools.tool import ToolContext, ToolFailed, ToolInput

FILE_BYTES_MAX: Final = 8 * 1024 * 1024
LINES_MAX: Final = 2000
LINE_CHARS_MAX: Final = 2000
CONTENT_CHARS_MAX: Final = 100_000


class ReadInput(ToolInput, frozen=True):
    file_path: Annotated[
        str, Meta(min_length=1, description="The file, relative to the workspace or absolute.")
    ]
    offset: Annotated[int, Meta(ge=1, description="The first line to read, from 1.")] = 1
    limit: Annotated[
        int, Meta(ge=1, le=LINES_MAX, description="How many lines to read at most.")
    ] = LINES_MAX


class Read:
    name = "read"
    description = (
        "Read a text file in the workspace. Answers with its lines as `N: text`, totalLines, "
        "startLine and endLine; read on with offset where endLine is less than totalLines."
    )
    input_type = ReadInput
    repeatable = True

    async def run(self, given: ReadInput, context: ToolContext) -> Json:
        sandbox = await context.sandbox()
        with teaching(given.file_path):
            content = await sandbox.read(given.file_path, max_bytes=FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ToolFailed(
                f"{given.file_path} is over {FILE_BYTES_MAX} bytes. Use bash with sed -n, head, "
                "tail or grep to see a part of it."
            )
        return _page(_lines(content), given)


def _lines(content: bytes) -> list[str]:
    lines = content.decode("utf-8", "replace").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _page(lines: list[str], given: ReadInput) -> Json:
    if given.offset > max(1, len(lines)):
        raise ToolFailed(f"offset {given.offset} is past the end: there are {len(lines)} lines.")
    shown: list[str] = []
    room = CONTENT_CHARS_MAX
    cut = False
    for number, line in enumerate(lines[given.offset - 1 :][: given.limit], given.offset):
        text = f"{number}: {line[:LINE_CHARS_MAX]}"
        room -= len(text) + 1
        if room < 0:
            cut = True
            break
        cut = cut or len(line) > LINE_CHARS_MAX
        shown.append(text)
    return {
        "content": "\n".join(shown),
        "totalLines": len(lines),
        "startLine": given.offset,
        "endLine": given.offset + len(shown) - 1,
        "truncated": cut,
    }
