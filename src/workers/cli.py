"""`runledger`: the processes, for compose.yaml and by hand. Ops and audit live in `scripts/`."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import Final

from runs_domain.errors import RunledgerError
from runs_domain.settings import BadSettings, Settings, load
from runs_domain.storage.migrate import migrate
from workers import bootstrap, doctor

EXIT_BAD_SETTINGS: Final = 2
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


def main() -> None:
    """Console script; exit 0 = ended as asked, 1 = it could not go on, 2 = bad settings."""
    parser = argparse.ArgumentParser(prog="runledger", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, what) in COMMANDS.items():
        commands.add_parser(name, help=what)
    options, rest = parser.parse_known_args()
    if rest and options.command != "api":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if options.command == "api":
        # Another program on purpose: the API and the workers never import each other.
        os.execv(sys.executable, [sys.executable, "-m", "runs_api", *rest])  # noqa: S606
    sys.exit(_run(COMMANDS[options.command][0]))


def _run(command: Callable[[Settings], int]) -> int:
    try:
        settings = load(os.environ)
        logging.basicConfig(level=settings.log_level, format=LOG_FORMAT)
        return command(settings)
    except BadSettings as error:
        _complain(error)
        return EXIT_BAD_SETTINGS
    except RunledgerError as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        return 0


def _complain(error: Exception) -> None:
    sys.stderr.write(f"runledger: {error}\n")


def _worker(settings: Settings) -> int:
    asyncio.run(bootstrap.run_worker(settings))
    return 0


def _projector(settings: Settings) -> int:
    asyncio.run(bootstrap.run_projector(settings))
    return 0


def _migrate(settings: Settings) -> int:
    if not settings.admin_database_url:
        raise BadSettings(
            "RUNLEDGER_ADMIN_DATABASE_URL is not set: migrations need the owner's role"
        )
    migrate(settings.admin_database_url.reveal())
    return 0


def _doctor(settings: Settings) -> int:
    return asyncio.run(doctor.examine(settings, sys.stdout))


COMMANDS: Final[dict[str, tuple[Callable[[Settings], int], str]]] = {
    "api": (lambda _: 0, "the HTTP API"),
    "worker": (_worker, "drives runs; start as many as you like"),
    "projector": (_projector, "keeps the views up to date"),
    "migrate": (_migrate, "brings the database to this release"),
    "doctor": (_doctor, "checks what this host offers, without changing anything"),
}
