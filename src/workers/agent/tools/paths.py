"""Errors about files, in words that a model can act on."""

import contextlib
from collections.abc import Iterator

from workers.agent.tools.tool import ToolFailed


@contextlib.contextmanager
def teaching(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ToolFailed(f"There is no file {path}. List its folder with bash.") from error
    except IsADirectoryError as error:
        raise ToolFailed(f"{path} is a directory. List it with bash, or name a file.") from error
    except OSError as error:
        raise ToolFailed(f"{path}: {error.strerror or type(error).__name__}.") from error
    except ValueError as error:
        raise ToolFailed(f"Not a path: {error}.") from error
