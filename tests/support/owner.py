"""A process that owns embedded servers, to be killed: `python -m tests.support.owner DIR`.

Prints one JSON line when they run: {"postgres": pid, "valkey": pid, "admin": url, "redis": url},
or {"error": sentence}; stops them when its input ends.
"""

import json
import sys
from pathlib import Path
from typing import Any

from workers.stack.child import StackError
from workers.stack.servers import Servers


def main(data_dir: Path) -> None:
    try:
        with Servers(data_dir, durable=False) as servers:
            said = {
                "postgres": servers.postgres.pid,
                "valkey": servers.valkey.pid,
                "admin": servers.database_url("postgres", admin=True),
                "redis": servers.redis_url,
            }
            say(said)
            sys.stdin.read()
    except StackError as error:
        say({"error": str(error)})


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
