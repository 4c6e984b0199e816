"""What a process is told from outside: all that is bad is named at once, and nothing is quoted."""

import msgspec
import pytest

from runs_domain.crash_at import POINTS, CrashAt, place_of
from runs_domain.settings import PREFIX, RANGES, BadSettings, Settings, load

CANARY = "s3CRET-canary"
GOOD = {
    "RUNLEDGER_DATABASE_URL": "postgresql://u:p@db:5432/runledger",
    "RUNLEDGER_REDIS_URL": "redis://:p@redis:6379/0",
    "RUNLEDGER_SECRET": "x" * 32,
}


def refused(**bad: str) -> str:
    with pytest.raises(BadSettings) as refusal:
        load(GOOD | {PREFIX + name.upper(): value for name, value in bad.items()})
    assert CANARY not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:pa%ss-{CANARY}@db/x",
        f"postgresql://u:{CANARY}/x@db/x",
        f"postgresql://u:a@{CANARY}@db/x",
        f"postgresql://u:{CANARY}#@db/x",
        f"postgresql://u:{CANARY}%00@db/x",
        f"postgresql://u:{CANARY} @db/x",
        f"postgresql://u:{CANARY}@db:99999/x",
        f"postgresql://u:{CANARY}@[::1/x",
        f"host=db password={CANARY}",
        f"mysql://u:{CANARY}@db/x",
        CANARY,
    ],
)
def test_a_postgres_url_that_would_fail_later_is_refused_without_its_text(url: str) -> None:
    assert refused(database_url=url).startswith("RUNLEDGER_DATABASE_URL must be like postgresql://")
    assert refused(admin_database_url=url).startswith("RUNLEDGER_ADMIN_DATABASE_URL must be like")


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{CANARY}/x@redis:6379/0",
        f"redis://:12/{CANARY}@redis",
        f"redis://:12?{CANARY}@redis",
        f"redis://:12#{CANARY}@redis",
        f"redis://:a@{CANARY}@redis",
        f"redis://:{CANARY}%zz@redis",
        f"redis://:{CANARY}@redis:99999",
        f"redis://:{CANARY}@redis/names",
        f"redis://:{CANARY}@redis/0?unheard_of=1",
        f"http://:{CANARY}@redis",
        f"unix://{CANARY}",
    ],
)
def test_a_redis_url_that_would_fail_later_is_refused_without_its_text(url: str) -> None:
    assert refused(redis_url=url).startswith("RUNLEDGER_REDIS_URL must be like redis://")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://:80",
        f"https://u:{CANARY}@host",
        f"https://host?key={CANARY}",
        "http://host:99999",
        "http://[::1",
    ],
)
def test_a_base_url_is_http_with_a_host_and_carries_no_secret(url: str) -> None:
    said = refused(model_base_url=url, api_base_url=url)

    assert "RUNLEDGER_MODEL_BASE_URL must be like https://" in said
    assert "RUNLEDGER_API_BASE_URL must be like https://" in said


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("database_url", "postgresql://u:p%40%2F%25@db/x?sslmode=require"),
        ("database_url", "postgres://u:p@a:5432,b:5433/x?target_session_attrs=read-write"),
        ("database_url", "postgresql://u:p@/x?host=%2Fvar%2Frun"),
        ("database_url", "postgresql://u:p:q@[::1]:5432/x"),
        ("redis_url", "rediss://u:p%2F@redis:6379"),
        ("redis_url", "redis://[::1]:6379/3"),
        ("redis_url", "unix:///run/valkey.sock?db=1"),
        ("model_base_url", "https://gateway.example/v1/"),
        ("api_base_url", "http://[::1]:8080"),
    ],
)
def test_good_urls_are_taken_as_they_are(name: str, url: str) -> None:
    value = getattr(load(GOOD | {PREFIX + name.upper(): url}), name)

    assert (value if isinstance(value, str) else value.reveal()) == url


def test_every_number_has_a_least_and_a_most() -> None:
    numbers = {
        field.name for field in msgspec.structs.fields(Settings) if field.type in (int, float)
    }

    assert numbers == set(RANGES)


@pytest.mark.parametrize("name", sorted(RANGES))
@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "-1", "1e300", "a word"])
def test_a_number_out_of_range_is_refused(name: str, text: str) -> None:
    assert refused(**{name: text}).startswith(f"{PREFIX}{name.upper()} must be ")


def test_a_misspelt_name_is_refused_with_the_name_that_was_meant() -> None:
    said = refused(sandboxx="none", zzz=CANARY)

    assert "RUNLEDGER_SANDBOXX is not a setting; did you mean RUNLEDGER_SANDBOX?" in said
    assert said.endswith("RUNLEDGER_ZZZ is not a setting")


def test_what_scripts_and_compose_are_told_is_no_misspelt_setting() -> None:
    beside = {"RUNLEDGER_PYTHON": "python3", "RUNLEDGER_APP_PASSWORD": "p", "RUNLEDGER_NEW": ""}

    assert load(GOOD | beside) is not None


def test_one_error_names_all_that_is_bad() -> None:
    said = refused(port="70000", secret="short", dev_mode="yes")  # noqa: S106 - a bad one

    for name in ("PORT must be 0 to 65535", "SECRET must have", "DEV_MODE must be 0 or 1"):
        assert PREFIX + name in said


@pytest.mark.parametrize("text", [f"{CANARY}:1", "append.after", "append.after:0", "append:x"])
def test_an_unknown_crash_point_is_refused_with_those_that_there_are(text: str) -> None:
    said = refused(crash_at=text, dev_mode="1")

    assert said.startswith("RUNLEDGER_CRASH_AT must be record or POINT:N")
    for point in POINTS:
        assert point in said


def test_no_process_can_be_told_to_kill_itself_but_one_of_tests_and_development() -> None:
    said = refused(crash_at="append.after:1")
    assert "RUNLEDGER_CRASH_AT kills the process" in said
    assert "RUNLEDGER_DEV_MODE=1 or RUNLEDGER_SCRIPTED_MODELS=1" in said
    assert "RUNLEDGER_CRASH_AT kills the process" in refused(crash_at="record", dev_mode="0")
    for lets in ("RUNLEDGER_DEV_MODE", "RUNLEDGER_SCRIPTED_MODELS"):
        known = load(GOOD | {lets: "1", "RUNLEDGER_CRASH_AT": "append.after:12"})
        assert place_of(known.crash_at) == CrashAt("append.after", 12)
