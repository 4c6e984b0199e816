"""The model's tools on a real sandbox: what they answer, and how they teach."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runs_domain.errors import SandboxNotFound
from runs_domain.sandbox_port import Sandbox
from tests.support.builders import RUN
from tests.support.sandboxes import key, new_spec
from workers.adapters.sandbox_local import LocalSandboxProvider
from workers.agent.tools.read import CONTENT_CHARS_MAX, FILE_BYTES_MAX, LINE_CHARS_MAX
from workers.agent.tools.registry import default_tools
from workers.agent.tools.run_tool import run_tool
from workers.agent.tools.tool import ToolContext, ToolResult

TOOLS = default_tools()


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    provider = LocalSandboxProvider(tmp_path, api_base_url="")
    opened, _ = await provider.open(new_spec(), key=key)
    yield opened
    await opened.destroy()
    await provider.close()


class Calls:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def __call__(self, name: str, *, timeout_seconds: float = 30.0, **given: Any) -> Any:
        return await run_tool(
            TOOLS,
            name,
            given,
            ToolContext(sandbox=self._get, run_id=RUN, call_id="call-1"),
            timeout_seconds=timeout_seconds,
        )

    async def _get(self) -> Sandbox:
        return self._sandbox


@pytest.fixture
def call(sandbox: Sandbox) -> Calls:
    return Calls(sandbox)


def told(result: ToolResult) -> tuple[str, str]:
    assert result.error is not None, result.output
    return result.error.origin, result.error.text


async def test_bash_answers_with_exit_code_and_both_outputs(call: Calls) -> None:
    result = await call("bash", command="echo $((6*7)); echo no >&2; exit 3")

    assert result.output == {
        "exitCode": 3,
        "stdout": "42\n",
        "stderr": "no\n",
        "truncated": False,
        "timedOut": False,
    }


async def test_a_script_can_pass_on_the_ids_of_its_run_and_its_call(call: Calls) -> None:
    result = await call("bash", command="echo $RUNLEDGER_RUN_ID; env | grep ^RUNLEDGER_CALL_ID")

    assert result.output["stdout"] == f"{RUN}\nRUNLEDGER_CALL_ID=call-1\n"


async def test_bash_runs_where_it_is_told_and_files_stay(call: Calls) -> None:
    await call("bash", command="mkdir -p a/b")

    result = await call("bash", command="pwd", cwd="a/b")

    assert result.output["stdout"] == "/workspace/a/b\n"


async def test_bash_past_its_time_keeps_what_was_printed(call: Calls) -> None:
    result = await call("bash", command="echo so far; sleep 600", timeout_seconds=1.0)

    assert result.output["stdout"] == "so far\n"
    assert result.output["timedOut"]
    assert result.output["exitCode"] is None
    assert "1 s" in result.output["note"]


async def test_bash_that_prints_too_much_says_what_to_do(call: Calls) -> None:
    result = await call("bash", command="yes")

    assert result.output["truncated"]
    assert "redirect" in result.output["note"]


async def test_write_then_read_shows_numbered_lines(call: Calls) -> None:
    written = await call("write", filePath="src/a.txt", content="één\n\nthree")
    read = await call("read", filePath="/workspace/src/a.txt")

    assert written.output == {"bytesWritten": 12}
    assert read.output == {
        "content": "1: één\n2: \n3: three",
        "totalLines": 3,
        "startLine": 1,
        "endLine": 3,
        "truncated": False,
    }


async def test_read_gives_the_lines_that_were_asked_for(call: Calls) -> None:
    await call("bash", command="seq 10 > f")

    result = await call("read", filePath="f", offset=4, limit=2)

    assert result.output["content"] == "4: 4\n5: 5"
    assert (result.output["startLine"], result.output["endLine"]) == (4, 5)
    assert result.output["totalLines"] == 10


async def test_an_empty_file_has_no_lines(call: Calls) -> None:
    await call("write", filePath="f", content="")

    result = await call("read", filePath="f")

    assert (result.output["content"], result.output["totalLines"]) == ("", 0)


async def test_long_lines_and_long_pages_are_cut_and_say_so(call: Calls) -> None:
    await call("bash", command=f"head -c {LINE_CHARS_MAX + 50} /dev/zero | tr '\\0' x > line")
    await call("bash", command="for i in {1..2000}; do printf '%0200d\\n' $i; done > page")

    line = await call("read", filePath="line")
    page = await call("read", filePath="page")

    assert line.output["content"] == "1: " + "x" * LINE_CHARS_MAX
    assert line.output["truncated"]
    assert page.output["truncated"]
    assert len(page.output["content"]) <= CONTENT_CHARS_MAX
    assert 0 < page.output["endLine"] < 2000
    rest = await call("read", filePath="page", offset=page.output["endLine"] + 1, limit=1)
    assert rest.output["startLine"] == page.output["endLine"] + 1


async def test_bytes_that_a_database_refuses_are_replaced(call: Calls) -> None:
    await call("bash", command=r"printf 'a\0b\xff' > f")

    result = await call("read", filePath="f")

    assert result.output["content"] == "1: a\ufffdb\ufffd"


@pytest.mark.parametrize(
    ("name", "given", "origin", "words"),
    [
        ("read", {"filePath": "missing"}, "tool", "no file missing"),
        ("read", {"filePath": "d"}, "tool", "d is a directory"),
        ("read", {"filePath": "shadow"}, "tool", "leads out of /workspace"),
        ("read", {"filePath": "/etc/passwd"}, "tool", "all that file tools see"),
        ("read", {"filePath": "f", "offset": 9}, "tool", "offset 9 is past the end: there are 1"),
        ("read", {"filePath": "big"}, "tool", f"over {FILE_BYTES_MAX} bytes"),
        ("read", {"filePath": "a\0b"}, "tool", "Not a path"),
        ("read", {"filePath": "f", "offset": 0}, "bad_input", "`int` >= 1 - at `$.offset`"),
        ("read", {"filePath": "f", "limit": 2001}, "bad_input", "`$.limit`"),
        ("read", {}, "bad_input", "missing required field `filePath`"),
        ("write", {"filePath": "d", "content": ""}, "tool", "d is a directory"),
        ("write", {"filePath": "shadow", "content": ""}, "tool", "it is a link"),
        ("write", {"filePath": "f/x", "content": ""}, "tool", "f/x"),
        ("write", {"filePath": "x", "content": "\ud800"}, "tool", "half surrogate"),
        ("bash", {"command": "ls", "timeout": 9}, "bad_input", "unknown field `timeout`"),
        ("bash", {"command": 5}, "bad_input", "Expected `str`, got `int` - at `$.command`"),
        ("bash", {"command": ""}, "bad_input", "`$.command`"),
        ("bash", {"command": "echo \0"}, "tool", "U+0000"),
        ("delete", {}, "unknown_tool", "no tool 'delete'. The tools are: bash, read, write"),
    ],
)
async def test_what_went_wrong_is_told_to_the_model(
    call: Calls, name: str, given: dict[str, Any], origin: str, words: str
) -> None:
    await call(
        "bash",
        command=f"mkdir d; echo 1 > f; ln -s /etc/shadow shadow; truncate -s {FILE_BYTES_MAX + 1}"
        " big",
    )

    found, text = told(await call(name, **given))

    assert found == origin
    assert words in text
    assert "\0" not in text


async def test_a_lost_workspace_is_told_apart_from_a_tools_failure() -> None:
    async def lost() -> Sandbox:
        raise SandboxNotFound("the sandbox is not on this host")

    context = ToolContext(sandbox=lost, run_id=RUN, call_id="call-1")

    result = await run_tool(TOOLS, "bash", {"command": "ls"}, context, timeout_seconds=5)

    assert told(result) == ("workspace_lost", "the sandbox is not on this host")


def test_only_reading_is_repeatable() -> None:
    assert {name for name in TOOLS.names() if TOOLS.is_repeatable(name)} == {"read"}
    assert not TOOLS.is_repeatable("unknown")


def test_the_model_is_told_each_input_as_a_closed_json_schema() -> None:
    schemas = {spec.name: spec.input_schema for spec in TOOLS.specs}

    assert set(schemas) == {"bash", "read", "write"}
    for schema in schemas.values():
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False
    assert schemas["read"]["required"] == ["filePath"]
    assert set(schemas["read"]["properties"]) == {"filePath", "offset", "limit"}
