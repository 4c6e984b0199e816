"""`python -m runs_api`: the API process. Settings come from the environment.

Once it answers it writes its port to `--port-file`, as decimal digits; RUNLEDGER_PORT 0 takes any.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from runs_api.app import connected, create_app
from runs_api.logs import configure
from runs_api.server import CannotListen, serve
from runs_domain.settings import BadSettings, load
from runs_domain.storage.connection import check_urls
from runs_domain.storage.secret_check import refuse_wrong_secret


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="runledger api", description="The HTTP API of Runledger.")
    parser.add_argument("--port-file", type=Path, help="written once requests are answered")
    options = parser.parse_args(arguments)
    try:
        settings = load(os.environ)
        check_urls(settings)
        asyncio.run(refuse_wrong_secret(settings))
    except BadSettings as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure(settings.log_level)
    draining = asyncio.Event()
    app = create_app(settings, lambda: connected(settings, draining))

    def announce(port: int) -> None:
        if options.port_file is not None:
            write_port(options.port_file, port)

    try:
        started = serve(app, draining, host=settings.host, port=settings.port, on_ready=announce)
    except CannotListen as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0 if started else 3


def write_port(path: Path, port: int) -> None:
    """By a rename, so that a reader sees all of it or nothing."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(f"{port}\n", "ascii")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
