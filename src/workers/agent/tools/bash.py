"""The tool `bash`: a script in the run's sandbox."""

from typing import Annotated, Final

from msgspec import Meta

from runs_domain.events import Json
from runs_domain.sandbox_port import ExecResult
from workers.agent.tools.tool import ToolContext, ToolFailed, ToolInput

_NOTES: Final = {
    "output_limit": "It was stopped because it printed too much; redirect output to a file.",
    "disk_quota": "It was stopped because the workspace is full; delete what is not needed.",
}


class BashInput(ToolInput, frozen=True):
    command: Annotated[str, Meta(min_length=1, description="The bash script to run.")]
    cwd: Annotated[
        str | None,
        Meta(description="Where to run it: a folder in the workspace, relative or absolute."),
    ] = None


class Bash:
    name = "bash"
    description = (
        "Run a bash script in the workspace, without a terminal. Answers with exitCode, stdout "
        "and stderr; of long output the first and last characters are kept. Files in the "
        "workspace stay between calls, processes do not. There is no network but "
        "http://127.0.0.1/api/, the API, where calls are already authorized. $RUNLEDGER_CALL_ID "
        "is this call's own id, fit as an idempotency key."
    )
    input_type = BashInput
    repeatable = False

    async def run(self, given: BashInput, context: ToolContext) -> Json:
        if "\0" in given.command or "\0" in (given.cwd or ""):
            raise ToolFailed("A command cannot contain U+0000; use printf '\\0' inside it.")
        sandbox = await context.sandbox()
        result = await sandbox.exec(
            given.command,
            cwd=given.cwd,
            env=context.environment,
            timeout_seconds=context.deadline_seconds,
        )
        if result.cancelled:
            raise ToolFailed("The command was stopped from outside before it ended.")
        return _output(result, context.deadline_seconds)


def _output(result: ExecResult, deadline_seconds: float) -> Json:
    output: Json = {
        "exitCode": result.exit_code,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "truncated": result.truncated,
        "timedOut": result.timed_out,
    }
    if result.timed_out:
        output["note"] = f"It was stopped after {deadline_seconds:g} s; the output so far is kept."
    elif result.killed_for is not None:
        output["note"] = _NOTES[result.killed_for]
    return output
