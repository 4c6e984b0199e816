"""`scripts/demo`: one run from POST to history, over HTTP, on a stack of its own.

With no PROMPT it first runs one sandboxed command by playbook, then asks the model.
"""

import argparse
import json
import os
import sys
from typing import Any, Final

import httpx
from rich.console import Console
from rich.table import Table

from runs_domain.errors import RunledgerError
from workers.stack.client import Client, Ended
from workers.stack.dev import data_dir, interrupted_once
from workers.stack.stack import ECHO_MODEL, LOCAL_MODEL, Stack

PLAYBOOK_MODEL: Final = "scripted/playbook"
PLAYBOOK: Final = json.dumps(
    {
        "calls": [
            {
                "text": "Let me look around in the sandbox.",
                "tools": [
                    {
                        "name": "bash",
                        "input": {"command": "whoami; pwd; echo $((6*7)); ls / | tr '\\n' ' '"},
                    }
                ],
            },
            {"text": "That was one command, in a sandbox of its own."},
        ]
    }
)
PROMPT: Final = "Write one sentence about the sea."
FOLDER: Final = "demo"
"""Below the data directory: a stack that `scripts/dev` runs there is not disturbed."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--model", metavar="ID", help="default: the best that is here")
    parser.add_argument("--json", action="store_true", help="the last line is the run as JSON")
    parser.add_argument("prompt", nargs="?", metavar="PROMPT")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json, highlight=False)
    try:
        with interrupted_once(), _stack(console) as stack:
            return _show(stack, options, console)
    except KeyboardInterrupt:
        return 130
    except (RunledgerError, LookupError, TimeoutError, httpx.HTTPError) as error:
        Console(stderr=True).print(f"demo: {error}", markup=False)
        return 1


def _stack(console: Console) -> Stack:
    folder = data_dir() / FOLDER
    console.print("Starting PostgreSQL, Valkey, the API, a worker and the projector …")
    return Stack(folder, workers=1, port=0, environ=os.environ, say=console.print)


def _show(stack: Stack, options: argparse.Namespace, console: Console) -> int:
    default = stack.details["env"].get("RUNLEDGER_DEFAULT_MODEL", "")
    if options.model is None and default == ECHO_MODEL:
        console.print(f"{LOCAL_MODEL} has no package for this machine; {ECHO_MODEL} answers.")
    with Client(stack.details["baseUrl"], stack.details["apiKey"]) as client:
        if options.prompt is None and options.model is None:
            _run(client, PLAYBOOK_MODEL, PLAYBOOK, console)
        ended = _run(client, options.model, options.prompt or PROMPT, console)
    if options.json:
        sys.stdout.write(json.dumps(ended.as_json(), ensure_ascii=False) + "\n")
    return 0 if ended.status == "completed" else 1


def _run(client: Client, model: str | None, prompt: str, console: Console) -> Ended:
    started = client.start(prompt, model)
    console.print(f"\n[bold]POST /api/chat/runs → 202[/bold]  runId {started['runId']}")
    for frame in client.stream(started["chatId"]):
        _print_frame(frame, console)
    console.print()
    ended = client.ended(started)
    console.print(_history(ended.history))
    console.print(f"status: [bold]{ended.status}[/bold]")
    return ended


def _print_frame(frame: dict[str, Any], console: Console) -> None:
    match frame["type"]:
        case "text-delta" | "reasoning-delta":
            console.print(frame["delta"], end="", markup=False, soft_wrap=True)
        case "tool-input-available":
            call = f"\n→ {frame['toolName']} {json.dumps(frame['input'])}"
            console.print(call, markup=False, soft_wrap=True)
        case "tool-output-available":
            console.print(f"← {json.dumps(frame['output'])}", markup=False, soft_wrap=True)
        case "tool-output-error" | "error":
            console.print(f"✗ {frame['errorText']}", markup=False, soft_wrap=True)
        case _:
            pass


def _history(history: list[dict[str, Any]]) -> Table:
    table = Table(title="The run's history, from the event log")
    for column in ("version", "type", "at (UTC)", "actor", "hash"):
        table.add_column(column)
    for event in history:
        table.add_row(
            str(event["version"]),
            event["type"],
            event["at"][11:23],
            event["actor"].partition(":")[0],
            event["hash"][:12],
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
