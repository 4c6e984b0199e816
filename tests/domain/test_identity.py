"""Ids and times: ordered, unique, derived the same way every time."""

from datetime import UTC, datetime, timedelta

from runs_domain.storage.codec import time_text
from runs_domain.storage.identity import SystemClock, new_account_id, run_id_of, uuid7


def test_ids_made_one_after_the_other_are_in_order_and_different() -> None:
    made = [uuid7() for _ in range(1000)]

    assert len(set(made)) == len(made)
    assert [one.time_low for one in made] == sorted(one.time_low for one in made)
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}


def test_an_id_tells_the_millisecond_it_was_made_in() -> None:
    before = SystemClock().now()
    made = datetime.fromtimestamp((uuid7().int >> 80) / 1000, tz=UTC)

    assert before - timedelta(milliseconds=1) <= made <= SystemClock().now()


def test_the_same_account_and_idempotency_key_give_the_same_run() -> None:
    account, other = new_account_id(), new_account_id()

    assert run_id_of(account, "k") == run_id_of(account, "k")
    assert len({run_id_of(account, "k"), run_id_of(account, "k2"), run_id_of(other, "k")}) == 3
    assert run_id_of(account, "k").version == 8


def test_times_are_stored_in_utc_with_all_their_microseconds() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    assert time_text(at) == "2026-01-02T03:04:05.000000Z"
    assert time_text(at.replace(microsecond=7)) == "2026-01-02T03:04:05.000007Z"
