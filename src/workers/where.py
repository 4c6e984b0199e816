"""Naming an error in a log line without its text."""

from pathlib import PurePath


def where(error: BaseException) -> str:
    """An error's type and line. Its text could hold content, and logs may not."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__qualname__
    file = PurePath(trace.tb_frame.f_code.co_filename).name
    return f"{type(error).__qualname__} at {file}:{trace.tb_lineno}"
