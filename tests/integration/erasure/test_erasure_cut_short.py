"""Erasures that are killed, repeated, or made by two at once."""

import asyncio

import pytest

from tests.support.erasures import (
    DESTROYED,
    Place,
)
from tests.support.operators import run_script

STEPS = 12


async def test_killed_after_the_key_is_destroyed_the_same_command_finishes_it(
    place: Place,
) -> None:
    place.erase(killed_after=DESTROYED, code=-9)
    assert not place.has_key()
    ((finished, digest),) = place.query(
        "SELECT finished_at, encode(heads_digest, 'hex') FROM erasures"
    )
    assert finished is None
    receipt = place.erase("--by", "somebody.else")

    assert receipt["complete"] is True
    assert receipt["kept"]["headsDigestBefore"] == digest
    assert receipt["cleared"]["keysRevoked"] == 1
    assert receipt["cleared"]["messageRows"] == 4
    assert receipt["askedBy"] != "ops:somebody.else"


@pytest.mark.long
@pytest.mark.parametrize("steps", range(1, STEPS + 1))
async def test_killed_after_any_step_the_same_command_finishes_it(place: Place, steps: int) -> None:
    place.erase(killed_after=steps, code=-9)
    receipt = place.erase()

    assert receipt["complete"] is True
    assert receipt["cleared"] == {
        "keysRevoked": 1,
        "membershipsEnded": 1,
        "namesCleared": 1,
        "runsCancelled": 0,
        "messageRows": 4,
        "chunkKeys": 4 if steps < 5 else receipt["cleared"]["chunkKeys"],
        "exportBundles": 0,
        "sandboxes": 0,
    }
    assert place.chunk_keys() == set()
    assert place.query("SELECT 1 FROM messages WHERE account_id = %s", place.account) == []


def test_erased_twice_it_stays_as_it_was_the_first_time(place: Place) -> None:
    first, second = place.erase(), place.erase()
    for same in ("askedAt", "askedBy", "keyDestroyedAt", "kept"):
        assert first[same] == second[same]
    assert second["complete"] is True
    assert second["cleared"]["messageRows"] == 4


def test_a_history_that_was_touched_meanwhile_is_no_success_and_is_told(place: Place) -> None:
    place.erase(killed_after=DESTROYED, code=-9)
    place.query(
        "UPDATE stored_events SET state = state || ' ' WHERE originator_version = ("
        " SELECT max(version) FROM run_heads)"
    )
    receipt = place.erase(code=1)
    assert receipt["kept"]["untouched"] is False
    assert (receipt["complete"], receipt["finishedAt"]) == (False, None)
    assert receipt["kept"]["headsDigestBefore"] != receipt["kept"]["headsDigestAfter"]

    told = run_script("erase_account.py", str(place.account), "--yes", env=place.aged().env)
    assert told.returncode == 1
    assert "erased:        NOT COMPLETELY" in told.stdout
    assert "history:       NOT AS IT WAS: run scripts/verify_history.py" in told.stdout


async def test_two_operators_at_once_are_in_nobody_s_way(place: Place) -> None:
    first, second = await asyncio.gather(
        asyncio.to_thread(place.erase, "--by", "ada"),
        asyncio.to_thread(place.erase, "--by", "bob"),
    )
    assert first["complete"] is second["complete"] is True
    assert first["askedBy"] == second["askedBy"]
    assert place.erase()["cleared"]["messageRows"] == 4
