"""The API as a process of its own, on real servers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runs_domain.settings import Secret
from tests.support.waiting import until_sync

SERVER_SECRET = Secret("a server secret for tests, long enough")
STOP_SECONDS = 10.0


@dataclass
class ApiProcess:
    process: subprocess.Popen[bytes]
    base_url: str
    log: Path

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(STOP_SECONDS)

    def logged(self) -> str:
        return self.log.read_text()


def environment(database_url: str, redis_url: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RUNLEDGER_")},
        "RUNLEDGER_DATABASE_URL": database_url,
        "RUNLEDGER_REDIS_URL": redis_url,
        "RUNLEDGER_SECRET": SERVER_SECRET.reveal(),
        "RUNLEDGER_PORT": "0",
        "RUNLEDGER_SCRIPTED_MODELS": "1",
        "RUNLEDGER_DEFAULT_MODEL": "scripted/echo",
    }


@contextmanager
def api_process(environ: Mapping[str, str], place: Path) -> Iterator[ApiProcess]:
    """Answers requests when it is given; killed at the end if it still runs."""
    port_file, log = place / "port", place / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "runs_api", "--port-file", str(port_file)],
            env=dict(environ),
            stdout=output,
            stderr=output,
        )
    try:
        until_sync(lambda: port_file.exists() or process.poll() is not None, timeout_seconds=30)
        assert process.poll() is None, log.read_text()
        yield ApiProcess(process, f"http://127.0.0.1:{port_file.read_text().strip()}", log)
    finally:
        process.kill()
        process.wait(STOP_SECONDS)
