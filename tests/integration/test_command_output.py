"""What `runledger` prints: sentences about what is wrong, never a secret and never a traceback."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from runs_domain.settings import PREFIX
from tests.support.redis_twins import own_valkey

COMMANDS = ("api", "worker", "projector", "migrate", "doctor")
CANARY = "s3CRET-canary"
SECONDS_MAX = 40.0


def run(command: str, place: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: it for name, it in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {
        "RUNLEDGER_DATABASE_URL": f"postgresql://u:{CANARY}@127.0.0.1:1/x",
        "RUNLEDGER_ADMIN_DATABASE_URL": f"postgresql://u:{CANARY}@127.0.0.1:1/x",
        "RUNLEDGER_REDIS_URL": f"redis://:{CANARY}@127.0.0.1:1/0",
        "RUNLEDGER_SECRET": CANARY * 4,
        "RUNLEDGER_SANDBOX": "none",
        "RUNLEDGER_DATA_DIR": str(place),
    }
    environment |= {PREFIX + name.upper(): value for name, value in settings.items()}
    return subprocess.run(  # noqa: S603 - our own argv
        [sys.executable, "-m", "workers.cli", command],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_invariant_6_a_bad_url_is_named_and_not_shown(command: str, tmp_path: Path) -> None:
    bad = {
        "database_url": f"postgresql://u:pa%ss-{CANARY}@db/x",
        "admin_database_url": f"postgresql://u:pa%ss-{CANARY}@db/x",
        "redis_url": f"redis://:{CANARY}/x@redis:6379/0",
    }

    ended = run(command, tmp_path, **bad)

    said = ended.stdout + ended.stderr
    assert ended.returncode == (1 if command == "doctor" else 2)
    assert all(PREFIX + name.upper() in said for name in bad)
    assert CANARY not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", COMMANDS)
def test_invariant_6_a_parameter_that_libpq_refuses_is_not_shown(
    command: str, tmp_path: Path
) -> None:
    ended = run(command, tmp_path, database_url=f"postgresql://u:{CANARY}@db/x?sslmod={CANARY}")

    said = ended.stdout + ended.stderr
    assert ended.returncode == (1 if command == "doctor" else 2)
    assert "RUNLEDGER_DATABASE_URL has a parameter that PostgreSQL does not know" in said
    assert CANARY not in said


@pytest.mark.parametrize(
    ("command", "why"), [("migrate", "OperationalError"), ("doctor", "connection refused")]
)
def test_a_server_that_is_away_is_told_without_its_url(
    command: str, why: str, tmp_path: Path
) -> None:
    ended = run(command, tmp_path)

    assert ended.returncode == 1
    assert why in ended.stdout + ended.stderr
    assert CANARY not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_api_on_a_taken_port_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("api", tmp_path, port=str(port))

    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.1.1.1", "a" * 70, "::zz"])
def test_an_api_on_a_host_that_is_not_here_says_so(host: str, tmp_path: Path) -> None:
    ended = run("api", tmp_path, host=host, port="0")

    assert ended.returncode == 1
    assert f"cannot listen on {host} port 0: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_doctor_notes_a_redis_that_evicts(tmp_path: Path) -> None:
    with own_valkey() as valkey, redis.Redis.from_url(valkey.url(), socket_timeout=5.0) as server:
        for policy, noted in (("noeviction", False), ("allkeys-lru", True), ("volatile-ttl", True)):
            server.config_set("maxmemory-policy", policy)

            said = run("doctor", tmp_path, redis_url=valkey.url()).stdout

            assert "ok   redis: version 9" in said
            assert (f"note redis: maxmemory-policy is {policy}" in said) is noted


def test_a_doctor_who_shall_not_try_the_sandbox_makes_no_folder(tmp_path: Path) -> None:
    place = tmp_path / "nowhere" / "yet"

    ended = run("doctor", place)

    assert "ok   sandbox: none is wanted" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_doctor_who_tries_the_sandbox_leaves_no_folder(tmp_path: Path) -> None:
    ended = run("doctor", tmp_path / "nowhere" / "yet", sandbox="local")

    assert "ok   sandbox: bubblewrap works" in ended.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/x", "/dev/null/x"])
def test_a_data_directory_that_cannot_be_made_is_a_finding(place: str) -> None:
    ended = run("doctor", Path(place), sandbox="local")

    assert ended.returncode == 1
    assert f"FAIL data directory: {place}: " in ended.stdout
    assert ended.stderr == ""


def test_a_worker_without_a_data_directory_says_so() -> None:
    ended = run("worker", Path("/proc/x"), sandbox="local")

    assert ended.returncode == 1
    assert ended.stderr.startswith("runledger: this worker does not start: ")
    assert "/proc/x" in ended.stderr
    assert "Traceback" not in ended.stderr
