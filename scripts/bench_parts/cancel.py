"""How soon a cancel stops what is at work: from its 202, as the client has it, to the moment when
the model's server sees its connection closed, and when the process of a sandbox's command is gone.

One run at a time. The model's server is this process: it answers with one word and then waits.
Negative times would mean that the work stopped before the client had its 202.
"""

import asyncio
import json
import os
import secrets
import socket
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from scripts.bench_parts.lib import LeanClient, emit, quantile_ms, stack

CANCELS = 100
WARM_UP = 5
WAIT_SECONDS_MAX = 20.0
LOOK_SECONDS = 0.01
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"one"}}]}\n\n'


class Server:
    """Speaks one word to every call; `asked` and `closed` tell of the newest one."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.asked = asyncio.Event()
        self.closed: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, sock=self._listener)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.closed = closed = asyncio.get_running_loop().create_future()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + WORD)
        self.asked.set()
        while await reader.read(65536):
            pass
        closed.set_result(time.perf_counter())
        writer.close()


async def model_call(client: LeanClient, server: Server) -> tuple[float, float]:
    server.asked.clear()
    run = await start(client, {"prompt": "wait", "model": "bench/waiting"})
    await server.asked.wait()
    began, answered = await cancel(client, run)
    stopped = await server.closed
    await ended(client, run)
    return stopped - began, stopped - answered


async def command(client: LeanClient) -> tuple[float, float]:
    token = f"bench-{secrets.token_hex(8)}"
    tool = {"name": "bash", "input": {"command": f"exec -a {token} sleep 600"}}
    playbook = json.dumps({"calls": [{"tools": [tool]}]})
    run = await start(client, {"prompt": playbook, "model": "scripted/playbook"})
    gone = watched(await pid_of(token))
    began, answered = await cancel(client, run)
    stopped = await gone
    await ended(client, run)
    return stopped - began, stopped - answered


async def start(client: LeanClient, body: dict[str, Any]) -> str:
    status, answer = await client.call("POST", "/api/chat/runs", json.dumps(body).encode())
    if status != 202:
        raise SystemExit(f"POST answered {status}: {answer!r}")
    return str(json.loads(answer)["runId"])


async def cancel(client: LeanClient, run: str) -> tuple[float, float]:
    """When the cancel was sent, and when its 202 was there."""
    began = time.perf_counter()
    status, answer = await client.call("POST", f"/api/chat/runs/{run}/cancel")
    if status != 202:
        raise SystemExit(f"the cancel answered {status}: {answer!r}")
    return began, time.perf_counter()


async def ended(client: LeanClient, run: str) -> None:
    status = "running"
    while status == "running":
        await asyncio.sleep(LOOK_SECONDS)
        _, answer = await client.call("GET", f"/api/chat/runs/{run}")
        status = json.loads(answer)["status"]


async def pid_of(token: str) -> int:
    """The process inside the sandbox that goes by this name, as this host numbers it."""
    while (pid := pid_now(token)) is None:  # noqa: ASYNC110 - nobody tells of new processes
        await asyncio.sleep(LOOK_SECONDS)
    return pid


def pid_now(token: str) -> int | None:
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if place.read_bytes().startswith(token.encode()):
                return int(place.parent.name)
    return None


def watched(pid: int) -> asyncio.Future[float]:
    """Done, with the time, when the process has ended."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[float] = loop.create_future()
    descriptor = os.pidfd_open(pid)

    def ended() -> None:
        gone.set_result(time.perf_counter())
        loop.remove_reader(descriptor)
        os.close(descriptor)

    loop.add_reader(descriptor, ended)
    return gone


async def measure(details: dict[str, Any], listener: socket.socket) -> None:
    client = await LeanClient(details["baseUrl"], details["apiKey"]).open()
    server = Server(listener)
    figures: dict[str, Any] = {"cancels_each": CANCELS}
    async with await server.start():
        for name, once in (
            ("model_call", partial(model_call, client, server)),
            ("command", partial(command, client)),
        ):
            took = []
            for number in range(WARM_UP + CANCELS):
                async with asyncio.timeout(WAIT_SECONDS_MAX):
                    times = await once()
                if number >= WARM_UP:
                    took.append(times)
            for place, since in ((0, "request"), (1, "202")):
                seconds = [times[place] for times in took]
                figures[f"{name}_stopped_after_{since}_p50_ms"] = quantile_ms(seconds, 0.5)
                figures[f"{name}_stopped_after_{since}_p99_ms"] = quantile_ms(seconds, 0.99)
        client.close()
    emit("cancel", figures)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with stack(SANDBOX="local", MODEL_BASE_URL=url) as details:
            asyncio.run(measure(details, listener))


if __name__ == "__main__":
    main()
