"""compose.yaml without a container engine: what of it can be run or compared by hand."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psycopg
import pytest
import yaml

from runs_domain.settings import PREFIX, Settings
from tests.support.servers import Database, temporary_servers
from workers.cli import COMMANDS
from workers.stack import postgres, programs
from workers.stack.servers import Servers
from workers.stack.stack import Stack

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
OURS = {name: it for name, it in COMPOSE["services"].items() if it["command"][0] == "runledger"}


def test_every_process_is_a_command_that_exists() -> None:
    assert set(OURS) == {"migrate", "api", "worker", "projector"}
    assert {it["command"][1] for it in OURS.values()} <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_setting_of_a_process_is_one_that_it_reads(name: str) -> None:
    known = {PREFIX + field.name.upper() for field in msgspec.structs.fields(Settings)}

    assert set(OURS[name]["environment"]) <= known


def test_secrets_come_from_the_environment_and_are_asked_for_by_name() -> None:
    """Only the owner's process knows the owner's password."""
    for name, service in COMPOSE["services"].items():
        for setting, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|DATABASE_URL", setting):
                assert re.search(r"\$\{[A-Z_]+:\?is not set\}", value), (name, setting)
    knows = {name for name, it in OURS.items() if "ADMIN" in str(it["environment"])}
    assert knows == {"migrate"}


def test_no_process_can_gain_privileges_and_each_has_a_health_check() -> None:
    """A list in a service replaces the shared one, it does not add to it."""
    for name, service in OURS.items():
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["cap_drop"] == ["ALL"], name
        assert name == "migrate" or service["healthcheck"]["test"][:2] == ["CMD", "python"], name


def test_the_worker_reaches_the_api_for_what_runs_call() -> None:
    """By default it would look for it on its own loopback."""
    settings = {name: str(value) for name, value in OURS["api"]["environment"].items()}

    reached = urlsplit(OURS["worker"]["environment"]["RUNLEDGER_API_BASE_URL"])

    assert reached.hostname == "api"
    assert str(reached.port) == settings["RUNLEDGER_PORT"]
    assert settings["RUNLEDGER_HOST"] == "0.0.0.0"  # noqa: S104 - read, not bound
    assert set(OURS["worker"]["networks"]) & set(OURS["api"]["networks"])


def health_of(service: str, **settings: str) -> int:
    """The exit code of the service's health check, as the container runs it."""
    script = ROOT / "deploy" / Path(OURS[service]["healthcheck"]["test"][2]).name
    environment = {PREFIX + name.upper(): value for name, value in settings.items()}
    argv = [sys.executable, str(script)]
    return subprocess.run(argv, env=environment, check=False).returncode  # noqa: S603 - ours


def test_health_checks_find_a_worker_and_a_projector_that_run(stack: Stack) -> None:
    assert health_of("worker", redis_url=stack.details["redisUrl"]) == 0
    assert health_of("projector", database_url=stack.details["databaseUrl"]) == 0
    assert health_of("api", port=str(urlsplit(stack.details["baseUrl"]).port)) == 0


def test_health_checks_find_that_nobody_runs(database: Database, redis_url: str) -> None:
    assert health_of("worker", redis_url=redis_url) == 1
    assert health_of("projector", database_url=database.url) == 1


def test_the_roles_script_makes_the_login_that_the_processes_use() -> None:
    """On servers that no migration has touched, as the image runs it."""
    with temporary_servers() as untouched:
        untouched.start()
        _run_roles_script(untouched)


def _run_roles_script(untouched: Servers) -> None:
    program = [str(ROOT / "deploy" / "postgres-roles.sh")]
    environment = {
        "PATH": f"{programs.postgres(None).bin}:{os.environ['PATH']}",
        "PGHOST": str(untouched.places.sockets / "postgres"),
        "PGPASSWORD": untouched.places.password(postgres.ADMIN),
        "POSTGRES_USER": postgres.ADMIN,
        "POSTGRES_DB": "postgres",
        "RUNLEDGER_APP_PASSWORD": "it's:odd",
    }

    subprocess.run(program, env=environment, check=True, capture_output=True)  # noqa: S603 - ours

    login = {"host": environment["PGHOST"], "user": "runledger_app", "dbname": "postgres"}
    with psycopg.connect(**login, password="it's:odd") as connection:  # noqa: S106 - a test's
        row = connection.execute("SELECT pg_has_role('runledger_service', 'member')").fetchone()
    assert row == (True,)
