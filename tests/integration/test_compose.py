"""compose.yaml without a container engine: what of it can be run or compared by hand."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import yaml

from runs_domain.settings import PREFIX, Settings
from tests.support.servers import temporary_servers
from workers.cli import COMMANDS
from workers.stack import postgres, programs
from workers.stack.servers import Servers

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
