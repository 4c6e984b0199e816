"""API keys: their form, their MACs, and the derived keys of runs."""

import zlib
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs_domain import keys
from runs_domain.errors import UnknownSecretVersion
from runs_domain.ids import KeyId, RunId
from runs_domain.keys import DerivedKeyIssuer, ServerSecrets
from runs_domain.ports import RunKey
from runs_domain.settings import Secret

PREFIX = "recoup_sk_"
OLD, NEW = Secret("o" * 32), Secret("n" * 32)
SECRETS = ServerSecrets({1: OLD, 2: NEW}, current=2)
KEY, RUN = KeyId(UUID(int=7)), RunId(UUID(int=8))

entropies = st.binary(min_size=keys.KEY_BYTES, max_size=keys.KEY_BYTES)


def derive(
    secrets: ServerSecrets = SECRETS, key: KeyId = KEY, run: RunId = RUN, version: int = 2
) -> RunKey:
    return DerivedKeyIssuer(secrets, PREFIX).derive(
        key, run, secret_version=version, ttl_seconds=900, scopes=("runs:read",)
    )


@given(entropies)
def test_a_new_key_is_well_formed_and_has_the_documented_length(entropy: bytes) -> None:
    raw = keys.new_key(PREFIX, entropy)

    assert keys.well_formed(raw, PREFIX)
    assert len(raw) == len(PREFIX) + 33 + 6


@given(st.text(keys.BASE62, min_size=39, max_size=39))
def test_a_key_is_well_formed_if_and_only_if_its_checksum_fits(tail: str) -> None:
    raw = PREFIX + tail
    checksum = zlib.crc32(raw[:-6].encode())
    value = 0
    for digit in raw[-6:]:
        value = value * 62 + keys.BASE62.index(digit)

    assert keys.well_formed(raw, PREFIX) == (value == checksum)
    assert keys.well_formed(raw[:-6] + keys.base62(checksum, 6), PREFIX)


@given(entropies, st.integers(0, 48), st.characters())
def test_one_changed_character_makes_junk(entropy: bytes, place: int, other: str) -> None:
    raw = keys.new_key(PREFIX, entropy)
    changed = raw[:place] + other + raw[place + 1 :]

    assert keys.well_formed(changed, PREFIX) == (changed == raw)


@given(st.text())
def test_whatever_a_client_sends_as_a_key_is_answered_without_an_error(raw: str) -> None:
    assert not keys.well_formed(raw, PREFIX)


@pytest.mark.parametrize("junk", ["\n", " ", "0", "\x00"])
def test_something_after_a_key_makes_junk(junk: str) -> None:
    raw = keys.new_key(PREFIX, bytes(24))

    assert not keys.well_formed(raw + junk, PREFIX)


def test_a_key_with_another_prefix_is_junk() -> None:
    assert not keys.well_formed(keys.new_key("other_sk_", bytes(24)), PREFIX)


def test_the_sub_keys_follow_rfc_5869() -> None:
    """Test case 3 of the RFC: no salt, no info, the first 32 of its 42 bytes."""
    made = keys.hkdf_sha256(b"\x0b" * 22, b"")

    assert made.hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"


def test_a_run_key_is_the_same_for_whoever_derives_it() -> None:
    again = derive(ServerSecrets({1: OLD, 2: NEW}, current=2))

    assert again.secret.reveal() == derive().secret.reveal()
    assert again.row == derive().row
    assert keys.well_formed(again.secret.reveal(), PREFIX)


def test_a_run_key_differs_by_run_by_key_and_by_secret_version() -> None:
    made = [
        derive(),
        derive(run=RunId(UUID(int=9))),
        derive(key=KeyId(UUID(int=9))),
        derive(version=1),
        derive(run=RunId(KEY), key=KeyId(RUN)),
    ]

    assert len({key.secret.reveal() for key in made}) == len(made)
    assert len({key.row.mac for key in made}) == len(made)


def test_a_key_of_an_old_secret_version_is_still_found_after_a_rotation() -> None:
    old = derive(ServerSecrets({1: OLD}, current=1), version=1)

    assert old.row.mac in keys.candidate_macs(SECRETS, old.secret.reveal())


def test_a_secret_version_that_is_gone_is_named() -> None:
    with pytest.raises(UnknownSecretVersion, match="version 3"):
        derive(version=3)
    with pytest.raises(UnknownSecretVersion):
        ServerSecrets({1: OLD}, current=2)


def test_one_purpose_of_the_secret_is_no_other() -> None:
    purposes = (keys.KEY_MAC, keys.RUN_KEY)

    assert len({SECRETS.subkey(purpose, 2) for purpose in purposes}) == len(purposes)


def test_invariant_6_no_secret_shows_in_a_repr_and_no_encoder_takes_it() -> None:
    made = derive()
    shown = f"{made!r} {made} {SECRETS!r} {DerivedKeyIssuer(SECRETS, PREFIX)!r}"

    assert made.secret.reveal()[len(PREFIX) + keys.DISPLAY_CHARS :] not in shown
    assert OLD.reveal() not in shown
    assert NEW.reveal() not in shown
    with pytest.raises(TypeError):
        msgspec.json.encode(made)
