"""`scripts/dev`: the whole stack in the foreground, until Ctrl-C or SIGTERM."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from runs_domain.errors import RunledgerError
from workers.stack.stack import Stack

DEFAULT_PORT: Final = 8080


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/dev", description=__doc__)
    parser.add_argument("--workers", type=_workers, default=1, metavar="N", help="0 to 64")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, metavar="P", help="0 = any")
    options = parser.parse_args(arguments)
    try:
        with interrupted_once(), _stack(options) as stack:
            _say(
                f"ready at {stack.details['baseUrl']}; all it takes to join: {data_dir()}/dev.json"
            )
            stack.watch()
    except KeyboardInterrupt:
        _say("stopped")
        return 0
    except (RunledgerError, LookupError) as error:
        _say(str(error))
        return 1


def data_dir() -> Path:
    return Path(os.environ.get("RUNLEDGER_DATA_DIR") or ".runledger")


@contextmanager
def interrupted_once() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt, once: a second one must not cut the stopping."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _say("stopping; steps in hand have a few seconds to end")
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stack(options: argparse.Namespace) -> Stack:
    return Stack(
        data_dir(), workers=options.workers, port=options.port, environ=os.environ, say=_say
    )


def _workers(text: str) -> int:
    return _between(text, 64)


def _port(text: str) -> int:
    return _between(text, 65535)


def _between(text: str, most: int) -> int:
    if not (text.isdecimal() and int(text) <= most):
        raise argparse.ArgumentTypeError(f"must be 0 to {most}")
    return int(text)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - a command talks to its user


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
