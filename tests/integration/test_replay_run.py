"""`scripts/replay_run.py` on a database that has its log, and nothing else any more."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from runs_domain.storage.identity import new_run_id
from tests.support.operators import run_script
from tests.support.replayed_runs import Runs, runs_without_views
from workers.stack.servers import Servers

CONTROLS = {*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066} - {0x0A}


@pytest.fixture(scope="module")
def runs(servers: Servers) -> Iterator[Runs]:
    with runs_without_views(servers) as made:
        yield made


@pytest.fixture
def replay(runs: Runs) -> Callable[..., Any]:
    def run(name: object, *arguments: object, code: int = 0) -> Any:
        run_id = runs.ids.get(str(name), name)
        done = run_script("replay_run.py", str(run_id), *map(str, arguments), env=runs.environment)
        assert done.returncode == code, done.stderr
        return done

    return run


# ------------------------------------------------------------------------------ as the API


@pytest.mark.parametrize("name", ["completed", "under way", "erased"])
def test_the_script_tells_from_the_log_alone_what_the_api_had_told(
    name: str, replay: Callable[..., Any], runs: Runs
) -> None:
    now, then = (
        json.loads(replay(name, "--json", *arguments).stdout) for arguments in ((), ("--at", "5"))
    )

    history = runs.answers[name, "/events"]["data"]
    assert now["run"] == runs.answers[name, ""] == runs.answers[name, "?at=2999-01-01T00:00:00Z"]
    assert now["events"] == history
    assert history[2:] == runs.answers[name, "/events?from_version=3"]["data"]
    assert now["messages"] == runs.answers[name, "messages"]
    assert [one["version"] for one in now["timeline"]] == [one["version"] for one in history]

    assert then["run"] == runs.answers[name, "?at=5"]
    assert then["events"] == history[:5]
    assert then["timeline"] == now["timeline"][:5]
    state = then["timeline"][-1]["state"]
    assert (state["status"], state["usage"]) == (then["run"]["status"], then["run"]["usage"])


def test_a_time_is_a_point_too(replay: Callable[..., Any], runs: Runs) -> None:
    history = runs.answers["completed", "/events"]["data"]
    fifth = datetime.fromisoformat(history[4]["at"])
    before = (fifth - timedelta(microseconds=1)).isoformat()
    told = json.loads(replay("completed", "--json", "--at", before).stdout)
    assert [one["version"] for one in told["events"]] == [1, 2, 3, 4]
    told = json.loads(replay("completed", "--json", "--at", history[4]["at"]).stdout)
    assert len(told["events"]) == 5


def test_what_was_erased_is_said_to_be_erased(replay: Callable[..., Any], runs: Runs) -> None:
    history = runs.answers["erased", "/events"]["data"]
    erased = {one["version"] for one in history if one.get("erased")}
    assert erased == {1, 5, 7, 8, 9}
    told = json.loads(replay("erased", "--json").stdout)
    assert {one["version"] for one in told["timeline"] if one["erased"]} == erased
    assert told["totals"]["cost"] == "0.00250"
    page = replay("erased").stdout
    assert "asked with an erased request" in page
    assert "model answered (stop): (erased)" in page
    assert page.endswith("\nuser\n(erased)\n\nassistant\n(erased)\n")
    whole = runs.answers["completed", "/events"]["data"]
    assert not any("erased" in one for one in whole)


# ------------------------------------------------------------------------------ to read


def test_a_page_says_what_the_run_did_when_how_long_and_what_it_cost(
    replay: Callable[..., Any],
) -> None:
    page = replay("completed").stdout
    lines = page.splitlines()
    table = page[: page.index("\nuser\n")].splitlines()
    assert max(map(len, table)) <= 80
    for sentence in (
        "asked with 1 message for scripted/echo",
        "“Say hello”",
        "model answered (tool-calls): bash, bash",
        "started bash, bash",
        "sandbox given back",
    ):
        assert any(line.endswith(sentence) for line in lines), sentence
    assert any(line.split()[:3] == ["model", "scripted/echo", "4-5"] for line in lines)
    assert any(line.startswith("time ") and "model" in line for line in lines)
    assert "calls     2 of the model, 2 of tools" in lines
    assert "tokens    60 input, 8 output, 20 cached input" in lines
    assert "cost      0.00250 USD" in lines
    assert page.endswith(
        '[bash: output-available] {"command":"true"}\n=> {"files":["a","b"]}\n'
        "The files are there.\n"
    )


def test_a_run_under_way_is_told_as_it_stands(replay: Callable[..., Any]) -> None:
    page = replay("under way").stdout
    assert "client wants it cancelled: took too long" in page
    assert any(line.split()[0::3] == ["tool", "open"] for line in page.splitlines() if "6-" in line)
    assert "credits   0 reserved, nothing yet charged" in page
    assert "cost      unknown" in page
    assert "cost      unknown" in replay("queued").stdout


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_control_characters_of_content_never_reach_the_terminal(
    form: tuple[str, ...], replay: Callable[..., Any], runs: Runs
) -> None:
    out = replay("hostile", *form).stdout
    assert not {ord(one) for one in out} & CONTROLS
    if form:
        assert json.loads(out)["events"] == runs.answers["hostile", "/events"]["data"]
    else:
        assert r"\x1b]0;owned\x07 \x1b[2J\x9b31m tab    here \u202e gnp.exe \u2066 end" in out


def test_a_locale_without_the_characters_stops_nothing(runs: Runs) -> None:
    """Pages name what they cannot write; JSON is UTF-8 everywhere."""
    ascii_only = runs.environment | {"PYTHONIOENCODING": "ascii"}
    run_id = str(runs.ids["completed"])
    page = run_script("replay_run.py", run_id, env=ascii_only)
    assert (page.returncode, page.stderr) == (0, "")
    assert r"\u201cSay hello\u201d" in page.stdout
    told = run_script("replay_run.py", run_id, "--json", env=ascii_only)
    assert json.loads(told.stdout)["events"] == runs.answers["completed", "/events"]["data"]


# ------------------------------------------------------------------------------ trouble


def test_an_event_of_a_newer_release_ends_the_replay_not_the_history(
    replay: Callable[..., Any], runs: Runs
) -> None:
    """All before it is told, the version and the tag are named, what is stored is still shown."""
    done = replay("newer", "--json", code=1)
    assert done.stderr == (
        f"replay_run: event 6 of run {runs.ids['newer']}: no rule of this release knows"
        " run.paused.v3; shown up to version 5: a newer release wrote it,"
        " and its replay_run.py reads it\n"
    )
    told = json.loads(done.stdout)
    assert told["error"] in done.stderr
    assert told["run"] == runs.answers["newer", "?at=5"]
    assert len(told["timeline"]) == 5
    history = runs.answers["newer", "/events"]["data"]
    assert told["events"] == history
    assert [one["version"] for one in history] == list(range(1, 13))
    assert history[5]["type"] == "run.paused.v3"
    assert history[5]["data"]["callIds"]

    page = replay("newer", code=1).stdout
    assert "run.paused.v3: not understood from here on" in page
    assert json.loads(replay("newer", "--json", "--at", "5").stdout)["run"] == told["run"]


def test_a_changed_event_is_named_and_where_to_ask_more(
    replay: Callable[..., Any], runs: Runs
) -> None:
    run_id = runs.ids["changed"]
    done = replay("changed", "--json", code=1)
    assert f"event 5 of run {run_id} (run.message_persisted.v1) cannot be read" in done.stderr
    assert done.stderr.endswith(f"up to version 4: ask scripts/verify_history.py {run_id}\n")
    events = json.loads(done.stdout)["events"]
    assert [one["version"] for one in events] == [1, 2, 3, 4]
    # Whether the changed one was there at that very time, nobody can tell any more.
    assert "cannot be read" in replay("changed", "--at", events[3]["at"], code=1).stderr
    assert json.loads(replay("changed", "--json", "--at", events[0]["at"]).stdout)["run"]
    assert json.loads(replay("changed", "--json", "--at", "4").stdout)["run"]["version"] == 4
    assert "cannot be read" in replay("changed", "--at", "7", code=1).stderr


def test_a_history_without_its_beginning_is_shown_as_it_is_stored(
    replay: Callable[..., Any], runs: Runs
) -> None:
    """The first event that cannot come next is named, not the last."""
    run_id = runs.ids["beheaded"]
    done = replay("beheaded", "--json", code=1)
    assert f"run {run_id}: 2 is not the next version" in done.stderr
    assert "nothing of it can be shown" in done.stderr
    told = json.loads(done.stdout)
    assert [one["version"] for one in told["events"]] == list(range(2, 13))
    assert (told["run"], told["timeline"], told["totals"]) == (None, [], None)
    page = replay("beheaded", "--plain", code=1).stdout
    assert page.count("not understood from here on") == 11


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--at", "13"), 1, "argument --at: the run has no such version yet; it is at 12"),
        (("--at", "1999-01-01T00:00:00Z"), 1, "argument --at: the run was not there yet"),
        (("--at", "0"), 2, "must be a version, from 1, or a time with its UTC offset"),
        (("--at", "2026-01-01T00:00:00"), 2, "must be a version, from 1, or a time with its UTC"),
        (("--json", "--plain"), 2, "not allowed with argument --json"),
    ],
)
def test_bad_arguments_are_told_in_a_sentence(
    arguments: tuple[str, ...], code: int, sentence: str, replay: Callable[..., Any]
) -> None:
    done = replay("completed", *arguments, code=code)
    assert sentence in done.stderr.splitlines()[-1]
    assert done.stdout == ""


def test_a_run_that_is_not_there_is_told(replay: Callable[..., Any]) -> None:
    stranger = new_run_id()
    done = replay(stranger, code=1)
    assert (done.stdout, done.stderr) == ("", f"replay_run: the log has no run {stranger}\n")
    assert "invalid UUID value: 'nothing'" in replay("nothing", code=2).stderr
    assert "invalid UUID value" in replay(UUID(int=1).hex + "0", code=2).stderr


def test_only_the_database_and_the_secret_are_needed(runs: Runs) -> None:
    without_redis = {name: value for name, value in runs.environment.items() if "REDIS" not in name}
    run_id = str(runs.ids["completed"])
    assert run_script("replay_run.py", run_id, env=without_redis).returncode == 0
    bare = run_script("replay_run.py", run_id, env={"PATH": os.environ["PATH"]})
    assert (bare.returncode, bare.stdout) == (2, "")
    assert "RUNLEDGER_DATABASE_URL is not set" in bare.stderr
    assert "REDIS" not in bare.stderr
    other = runs.environment | {"RUNLEDGER_SECRET": "another server secret of the tests, as long"}
    wrong = run_script("replay_run.py", run_id, env=other)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "is server secret 1 the one that wrapped it?" in wrong.stderr
    away = runs.environment | {"RUNLEDGER_DATABASE_URL": "postgresql://a:canary@127.0.0.1:1/none"}
    gone = run_script("replay_run.py", run_id, env=away)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr == (
        "replay_run: PostgreSQL cannot be reached (connection refused):"
        " look at RUNLEDGER_DATABASE_URL\n"
    )
