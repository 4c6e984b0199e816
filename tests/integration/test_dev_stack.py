"""`scripts/dev`'s stack: what it writes down, what it mends, how it ends."""

import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from runs_domain.settings import load
from tests.support.waiting import until_sync
from workers.stack.child import StackError
from workers.stack.dev import main
from workers.stack.places import Places
from workers.stack.postgres import Postgres
from workers.stack.stack import Stack
from workers.stack.valkey import Valkey

ROOT = Path(__file__).parents[2]
START_SECONDS = 50.0
STOP_SECONDS = 40.0


@contextmanager
def dev(short_path: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """The stack as a process; stopped at the end. Its sentences are on stderr."""
    environment = {
        "PATH": os.environ["PATH"],
        "RUNLEDGER_DATA_DIR": str(short_path),
        "RUNLEDGER_SANDBOX": "none",
    }
    argv = [sys.executable, "-m", "workers.stack.dev", *options]
    with subprocess.Popen(  # noqa: S603 - our own argv
        argv, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=STOP_SECONDS)


def details(short_path: Path) -> dict[str, Any]:
    """dev.json; empty until it is there."""
    try:
        return dict(json.loads((short_path / "dev.json").read_text("utf-8")))
    except FileNotFoundError:
        return {}


def status_of(base_url: str, path: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


@contextmanager
def answering_everything() -> Iterator[int]:
    """A server that says 200 to whatever it is asked; gives its port."""

    class Polite(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Polite) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def every_pid(pids: dict[str, Any]) -> set[int]:
    return {*pids.pop("workers"), *pids.values()}


@pytest.mark.crash
def test_a_stack_says_how_to_join_it_mends_itself_and_leaves_nothing(short_path: Path) -> None:
    with dev(short_path, "--port", "0", "--workers", "2") as process:
        before = until_sync(lambda: details(short_path), timeout_seconds=START_SECONDS)
        assert (short_path / "dev.json").stat().st_mode & 0o777 == 0o600
        assert status_of(before["baseUrl"], "/readyz") == 200
        assert load(before["env"]).admin_database_url
        for url in (before["databaseUrl"], before["adminDatabaseUrl"]):
            psycopg.connect(url).close()
        pids = before["pids"]

        os.kill(pids["workers"][0], signal.SIGKILL)
        until_sync(lambda: details(short_path)["pids"]["workers"] == pids["workers"][1:])
        os.kill(pids["valkey"], signal.SIGKILL)
        after = until_sync(
            lambda: changed(short_path, pids["valkey"]), timeout_seconds=START_SECONDS
        )
        with redis.Redis.from_url(after["redisUrl"]) as client:
            until_sync(lambda: answers(client))
        assert after["pids"]["workers"] == pids["workers"][1:]

        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=STOP_SECONDS)

    assert process.returncode == 0
    assert "worker-1 was killed by signal 9; the others take over its runs" in said
    assert "valkey was killed by signal 9; starting it again" in said
    assert not (short_path / "dev.json").exists()
    assert [pid for pid in every_pid(after["pids"]) if not is_gone(pid)] == []


@pytest.mark.crash
def test_a_killed_stack_takes_all_its_processes_along(short_path: Path) -> None:
    with dev(short_path, "--port", "0", "--workers", "1") as process:
        pids = until_sync(lambda: details(short_path), timeout_seconds=START_SECONDS)["pids"]
        process.kill()
        process.wait(timeout=10)
        for pid in every_pid(pids):
            until_sync(lambda pid=pid: is_gone(pid), timeout_seconds=STOP_SECONDS)


def test_workers_may_all_join_by_hand(short_path: Path) -> None:
    with dev(short_path, "--port", "0", "--workers", "0"):
        said = until_sync(lambda: details(short_path), timeout_seconds=START_SECONDS)
        assert said["pids"]["workers"] == []


def test_a_taken_port_is_refused_with_a_remedy_and_nothing_stays(short_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with dev(short_path, "--port", str(taken.getsockname()[1])) as process:
            _, said = process.communicate(timeout=START_SECONDS)

    assert process.returncode == 1
    assert "--port 0 takes any free one" in said
    assert not (short_path / "dev.json").exists()


@pytest.mark.crash
def test_a_stack_is_not_ready_because_somebody_else_answers_at_its_port(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that are started at the same moment both find the port free."""
    with answering_everything() as port:
        monkeypatch.setattr("workers.stack.stack.free_port", lambda _host, _wanted: port)
        stack = Stack(short_path, workers=0, port=port, environ=os.environ, say=print)
        with pytest.raises(StackError, match=f"cannot listen on 127.0.0.1 port {port}"), stack:
            pass


@pytest.mark.parametrize("port", ["99999", "-1", "a word"])
def test_a_port_that_is_none_is_refused_as_an_argument(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--port", port])

    assert ended.value.code == 2
    assert "--port: must be 0 to 65535" in capsys.readouterr().err


def test_a_data_directory_that_cannot_be_made_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNLEDGER_DATA_DIR", "/proc/x")

    assert main(["--port", "0"]) == 1
    assert "the data directory /proc/x cannot be used" in capsys.readouterr().err


def stack_in(place: Path) -> Stack:
    return Stack(place, workers=0, port=0, environ={}, say=lambda _: None)


def test_an_old_dev_json_is_gone_before_anything_starts(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it must not join a stack that was killed."""
    old = short_path / "dev.json"
    seen: list[bool] = []
    old.write_text("{}")
    monkeypatch.setattr(Valkey, "start", lambda _: seen.append(old.exists()))
    monkeypatch.setattr(Postgres, "start", refuse)

    with pytest.raises(StackError, match="no"), stack_in(short_path):
        pass
    assert seen == [False]


def test_a_second_stack_leaves_the_first_one_its_dev_json(short_path: Path) -> None:
    Places(short_path).own()
    (short_path / "dev.json").write_text("{}")

    with pytest.raises(StackError, match="already runs"), stack_in(short_path):
        pass
    assert (short_path / "dev.json").exists()


def refuse(_: object) -> None:
    raise StackError("no")


def changed(short_path: Path, old_pid: int) -> dict[str, Any]:
    """dev.json once it names another Valkey."""
    now = details(short_path)
    return now if now and now["pids"]["valkey"] != old_pid else {}


def answers(client: "redis.Redis[Any]") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
