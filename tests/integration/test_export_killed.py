"""Exports that end in the middle: killed, out of disk, of a log or an account that has changed."""

import importlib
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.bundles import (
    Bundle,
    bytes_in,
    export,
    scripts_importable,
    verified,
)
from tests.support.killed_export import STEPS
from tests.support.operators import SCRIPTS, environment_of, run_program, run_script
from tests.support.servers import as_owner
from tests.support.some_history import SomeHistory, some_history
from workers.adapters.sandbox_local.programs import find_programs
from workers.stack.servers import Servers

ROOT = SCRIPTS.parent
ERASE = "UPDATE account_data_keys SET wrapped = NULL, destroyed_at = now() WHERE account_id = %s"


@pytest.fixture(scope="module")
def history(servers: Servers) -> Iterator[SomeHistory]:
    """Tests leave it as it is."""
    with some_history(servers) as made:
        yield made


@pytest.fixture
def own(servers: Servers) -> Iterator[SomeHistory]:
    """To break."""
    with some_history(servers) as made:
        yield made


def killed(
    history: SomeHistory, out: Path, steps: Iterable[int], *, part_events: int, page_events: int
) -> list[tuple[str, str]]:
    """For each number of steps what the export did when it was killed, and the hash of the bundle
    that the next one made of it.
    """
    until = history.times()[-1].isoformat()
    order = {
        "argv": [
            *("--account", str(history.account), "--out", str(out)),
            *("--until", until, "--unsealed"),
        ],
        "out": str(out),
        "steps": list(steps),
        "part_events": part_events,
        "page_events": page_events,
    }
    done = run_program(
        [sys.executable, "-m", "tests.support.killed_export"],
        env=environment_of(history.database),
        seconds_max=600,
        cwd=ROOT,
        input=json.dumps(order),
    )
    assert done.returncode == 0, done.stderr
    return [(did, digest) for did, digest in json.loads(done.stdout)]


def test_an_export_that_is_killed_goes_on_and_ends_with_the_same_bytes(
    history: SomeHistory, tmp_path: Path
) -> None:
    """The sealing apart nothing differs between two exports, so that bytes can be compared."""
    found = killed(history, tmp_path / "out", range(0, 400, 9), part_events=7, page_events=4)
    assert len(found) > 8
    assert {digest for _, digest in found} == {found[0][1]}
    assert found[0][1] is not None
    assert verified(tmp_path / "out")[0] == 0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("part_events", "page_events", "every"), [(1, 3, 7), (7, 1, 1), (7, 4, 1), (100, 100, 1)]
)
def test_an_export_that_is_killed_at_any_step_goes_on(
    history: SomeHistory, tmp_path: Path, part_events: int, page_events: int, every: int
) -> None:
    """With a part an event there are hundreds of steps: every seventh of them."""
    steps = range(0, 4000, every)
    found = killed(
        history, tmp_path / "out", steps, part_events=part_events, page_events=page_events
    )
    assert {did for did, _ in found} == set(STEPS)
    assert {digest for _, digest in found} == {found[0][1]}
    assert found[0][1] is not None
    assert verified(tmp_path / "out")[0] == 0


# ------------------------------------------------------------------------------ no room


FILE_BYTES_MAX = 20_000
"""Less than the events of the history have, more than the state of an export."""


def cut_short(history: SomeHistory, out: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """An export that may not make files as large as it needs."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))

    return run_script(
        "export_history.py",
        *("--account", history.account, "--out", out, *more),
        env=environment_of(history.database),
        seconds_max=60,
        preexec_fn=limit,
    )


def test_a_quota_is_told_in_a_sentence_and_the_same_command_goes_on(
    history: SomeHistory, tmp_path: Path
) -> None:
    until = ("--until", history.times()[-1].isoformat())
    out = tmp_path / "out"
    done = cut_short(history, out, *until)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"export_history: {out}/events-00001.ndjson: File too large;"
        " make room, and the same command goes on\n"
    )
    assert verified(out)[0] == 2
    assert export(history.database, history.account, out, *until).returncode == 0
    whole = tmp_path / "whole"
    assert export(history.database, history.account, whole, *until).returncode == 0
    assert bytes_in(out) == bytes_in(whole)


def test_what_lies_behind_the_last_whole_part_is_cut_off(
    history: SomeHistory, tmp_path: Path
) -> None:
    until = ("--until", history.times()[-1].isoformat())
    out = tmp_path / "out"
    assert cut_short(history, out, *until).returncode == 1
    for name in ("events-00001.ndjson", "runs.ndjson", "unfinished.json.new"):
        with (out / name).open("ab") as file:
            file.write(b"x" * 10 * FILE_BYTES_MAX)
    assert export(history.database, history.account, out, *until).returncode == 0
    whole = tmp_path / "whole"
    assert export(history.database, history.account, whole, *until).returncode == 0
    assert bytes_in(out) == bytes_in(whole)


def test_a_part_is_on_the_disk_before_anything_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill does not show it: what the kernel has then is what a reader gets."""
    with scripts_importable():
        files = importlib.import_module("exporting.files")
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_size))
    part = files.Growing(tmp_path / "part")
    part.add(b"a line\n")
    part.add(b"another\n")
    assert part.settle().bytes == 15
    part.close()
    assert flushed == [15]


def test_a_full_disk_is_told_in_a_sentence(history: SomeHistory, tmp_path: Path) -> None:
    """A file system of its own, in a namespace of its own, of a few pages."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = run_program(
        [
            *(find_programs().bwrap, "--dev-bind", "/", "/", "--size", "16384", "--tmpfs", disk),
            *(sys.executable, SCRIPTS / "export_history.py"),
            *("--account", history.account, "--out", disk / "out"),
        ],
        env=environment_of(history.database),
        seconds_max=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"export_history: {disk}/out/")
    assert done.stderr.endswith(
        ": No space left on device; make room, and the same command goes on\n"
    )
    assert len(done.stderr.splitlines()) == 1


# ------------------------------------------------------------------------------ other commands


def test_only_the_same_command_goes_on(own: SomeHistory, servers: Servers, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cut_short(own, out, "--unsealed").returncode == 1
    before = bytes_in(out)
    with some_history(servers) as other:
        as_owner(other.database, "INSERT INTO accounts VALUES (%s, 'person', 'x')", own.account)
        for database, account, more, says in (
            (own.database, own.account, (), "with other arguments (--unsealed): give those"),
            (
                own.database,
                own.other_account,
                ("--unsealed",),
                "holds an export of another account",
            ),
            (other.database, own.account, ("--unsealed",), "holds an export of another database"),
        ):
            done = export(database, account, out, *more)
            assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert bytes_in(out) == before
    assert export(own.database, own.account, out, "--unsealed").returncode == 0
    assert verified(out)[0] == 0


@pytest.mark.parametrize("what", ["unfinished.json", "runs.ndjson"])
def test_what_was_left_and_then_damaged_is_not_gone_on_with(
    own: SomeHistory, tmp_path: Path, what: str
) -> None:
    out = tmp_path / "out"
    assert cut_short(own, out).returncode == 1
    state = json.loads((out / "unfinished.json").read_bytes())
    if what == "unfinished.json":
        (out / what).write_text("{}")
    else:
        (out / "unfinished.json").write_text(json.dumps(state | {"runsBytes": 10**6}))
    done = export(own.database, own.account, out)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert what in done.stderr


# ------------------------------------------------------------------------------ erased accounts


def test_an_erased_account_is_exported_and_its_content_is_told_to_be_erased(
    own: SomeHistory, tmp_path: Path
) -> None:
    as_owner(own.database, ERASE, own.account)
    done = export(own.database, own.account, tmp_path / "out", "--unsealed")
    assert (done.returncode, "erased:   4 runs\n" in done.stdout) == (0, True)
    bundle = Bundle(tmp_path / "out")
    assert all(one == {"id": one["id"], "erased": True} for one in bundle.objects("content"))
    assert all(run["erased"] for run in bundle.objects("runs"))
    assert len(bundle.objects("events")) == len(own.states())
    assert verified(bundle)[0] == 0


def test_an_export_of_before_an_erasure_is_not_gone_on_with(
    own: SomeHistory, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert cut_short(own, out, "--unsealed").returncode == 1
    as_owner(own.database, ERASE, own.account)
    done = export(own.database, own.account, out, "--unsealed")
    says = f"the account was erased after this export began: remove {out} and begin anew"
    assert (done.returncode, done.stderr) == (1, f"export_history: {says}\n")


# ------------------------------------------------------------------------------ damaged logs


def test_a_run_whose_head_is_gone_or_anothers_is_exported_all_the_same(
    own: SomeHistory, tmp_path: Path
) -> None:
    as_owner(own.database, "DELETE FROM run_heads WHERE run_id = %s", own.runs[1])
    as_owner(
        own.database,
        "UPDATE run_heads SET account_id = %s WHERE run_id = %s",
        own.other_account,
        own.runs[2],
    )
    as_owner(
        own.database,
        "UPDATE run_heads SET requested_position = 1000000 WHERE run_id = %s",
        own.runs[3],
    )
    done = export(own.database, own.account, tmp_path / "out")
    assert (done.returncode, "3 of the runs have lost their heads" in done.stderr) == (0, True)
    bundle = Bundle(tmp_path / "out")
    assert [run["runId"] for run in bundle.objects("runs")] == [str(run) for run in own.runs]
    assert bundle.manifest["runsWithoutHead"] == 3
    assert verified(bundle)[0] == 0


DAMAGE = (
    (
        ("state = overlay(state PLACING 'X' FROM 20)", "2: row"),
        ("state = replace(convert_from(state, 'UTF8'), 'none', 'nine')::bytea", "2: chain"),
        ("topic = 'run.started.v1'", "2: row"),
        ("notification_id = 90", "3: position"),
    ),
    (
        ("state = 'x'", "2: line"),
        ("state = NULL", "2: line"),
        ("topic = NULL", "2: row"),
        ("topic = E'a\\n\"b'", "2: row"),
    ),
)
"""Of version 2 of each run, and at which version what kind of fault is to be named."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_events_are_carried_away_as_they_are_and_named_by_the_check(
    own: SomeHistory, tmp_path: Path, damage: tuple[tuple[str, str], ...]
) -> None:
    for run, (change, _) in zip(own.runs, damage, strict=True):
        where = f"WHERE originator_id = '{run}' AND originator_version = 2"
        as_owner(own.database, f"UPDATE stored_events SET {change} {where}")  # noqa: S608 - our own
    bundle = Bundle(tmp_path / "out")
    done = export(own.database, own.account, bundle.place, "--unsealed")
    assert done.returncode == 0, done.stderr
    code, words = verified(bundle)
    assert code == 1
    named = {
        match[1]: f"{match[2]}: {match[3]}"
        for match in re.finditer(r"  run (\S+), version (\d+), position \d+: (\w+): ", words)
    }
    expected = {str(run): says for run, (_, says) in zip(own.runs, damage, strict=True)}
    assert named == expected, words


def test_times_that_were_changed_cannot_move_the_ends_of_a_span(
    own: SomeHistory, tmp_path: Path
) -> None:
    """A search by halves would believe whatever it meets."""
    cut = own.times()[4].isoformat()
    rows = own.rows()
    change = "UPDATE stored_events SET state = regexp_replace(convert_from(state, 'UTF8'), %s, %s)"
    for _, _, position, _ in rows:
        as_owner(
            own.database,
            f"{change}::bytea WHERE notification_id = %s",
            '"at":"2[0-9]{3}',
            '"at":"2999',
            position,
        )
        done = export(own.database, own.account, tmp_path / str(position), "--until", cut)
        if done.returncode:
            assert "are not in order, so that no span can begin or end there" in done.stderr
            assert not (tmp_path / str(position)).exists()
            return
        assert Bundle(tmp_path / str(position)).manifest["window"]["through"] >= 1
    pytest.fail("no change of time was noticed")
