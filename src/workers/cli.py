"""The processes of Runledger, one a command. Accounts and keys are set up by scripts/keys.py."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import Final

from runs_domain.errors import RunledgerError
from runs_domain.faults import places
from runs_domain.settings import BadSettings, Settings, load
from runs_domain.storage.connection import check_urls
from runs_domain.storage.migrate import migrate
from workers import bootstrap, doctor
from workers.faults import PlacesOnly

EXIT_BAD_SETTINGS: Final = 2
CHATTY_LOGGERS: Final = ("arq.worker", "httpx")
"""They write a line or two a job or a call."""
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


def main() -> None:
    """Exits 0 = ended as asked, 1 = it could not go on, 2 = bad settings or arguments."""
    parser = argparse.ArgumentParser(prog="runledger", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, what) in COMMANDS.items():
        commands.add_parser(name, help=what, add_help=name != "api")
    options, rest = parser.parse_known_args()
    if rest and options.command != "api":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        sys.exit(COMMANDS[options.command][0](rest))
    except RunledgerError as error:
        sys.stderr.write(f"runledger: {error}\n")
        sys.exit(EXIT_BAD_SETTINGS if isinstance(error, BadSettings) else 1)
    except KeyboardInterrupt:
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - its text may hold a password
        said = "\n".join(places(error))
        sys.stderr.write(f"runledger: this should not happen: {said}\n")
        sys.exit(1)


def _settings() -> Settings:
    settings = load(os.environ)
    check_urls(settings)
    handler = logging.StreamHandler()
    handler.setFormatter(PlacesOnly(LOG_FORMAT))
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    for chatty in CHATTY_LOGGERS:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return settings


def _api(rest: list[str]) -> int:
    """Another program on purpose: the API and the workers never import each other."""
    os.execv(sys.executable, [sys.executable, "-m", "runs_api", *rest])  # noqa: S606 - no shell


def _worker(_: list[str]) -> int:
    asyncio.run(bootstrap.run_worker(_settings()))
    return 0


def _projector(_: list[str]) -> int:
    asyncio.run(bootstrap.run_projector(_settings()))
    return 0


def _migrate(_: list[str]) -> int:
    url = _settings().admin_database_url
    if not url:
        raise BadSettings("RUNLEDGER_ADMIN_DATABASE_URL is not set: migrations need the owner")
    applied = migrate(url.reveal())
    sys.stdout.write(f"applied: {', '.join(applied)}\n" if applied else "nothing to apply\n")
    return 0


def _doctor(_: list[str]) -> int:
    return asyncio.run(doctor.examine(os.environ, sys.stdout))


COMMANDS: Final[dict[str, tuple[Callable[[list[str]], int], str]]] = {
    "api": (_api, "the HTTP API"),
    "worker": (_worker, "drives runs; start as many as you like"),
    "projector": (_projector, "keeps the views up to date"),
    "migrate": (_migrate, "brings the database to this release"),
    "doctor": (_doctor, "checks what this host offers, without changing anything"),
}


if __name__ == "__main__":
    main()
