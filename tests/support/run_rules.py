"""What a run of the tests includes, and that it may not pass over anything in silence.

`--long` adds the sweeps. A skip is printed loudly; with CI=true it fails the run.
"""

import os
import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the sweeps")
    parser.addoption("--chaos-runs", type=int, default=800, help="of the long chaos test")
    parser.addoption(
        "--chaos-seed", type=int, help="of the long chaos test; by default a random one"
    )


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        # One of several processes: those are started deaf to Ctrl-C, and so would be whatever
        # they start, also the programs whose Ctrl-C is tested.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    sweeps = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if not item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=sweeps)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and exitstatus != pytest.ExitCode.NO_TESTS_COLLECTED:
        terminalreporter.write_line(f"NOT TESTED HERE: {len(skipped)} skipped, see above", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
