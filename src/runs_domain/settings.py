"""One frozen object for everything a process is told from outside; read once, passed on.

Every variable is `RUNLEDGER_` + the field's name in capitals. A bad value never stops the
reading: one error names all of them, and every `RUNLEDGER_` name that is not known.
"""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from typing_extensions import override

from runs_domain import crash_at, urls
from runs_domain.errors import RunledgerError

PREFIX: Final = "RUNLEDGER_"
NOT_FOR_PROCESSES: Final = frozenset(
    {
        "RUNLEDGER_PYTHON",  # scripts/_venv: which Python makes .venv
        "RUNLEDGER_VENV_LOCKED",  # scripts/_venv, to itself
        "RUNLEDGER_APP_PASSWORD",  # compose.yaml and deploy/postgres-roles.sh
        "RUNLEDGER_CALL_ID",  # to commands in a sandbox
        "RUNLEDGER_RUN_ID",  # likewise
    }
)
"""Names that may be in the environment beside the settings."""
SECRET_BYTES_MIN: Final = 32


class BadSettings(RunledgerError):
    pass


class Secret:
    """A value that no repr, log line or encoder gives away; `reveal()` is the only way out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    @override
    def __repr__(self) -> str:
        return "Secret(***)"

    def __bool__(self) -> bool:
        return bool(self._value)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    database_url: Secret
    redis_url: Secret
    secret: Secret
    """At least 32 bytes; keys, data keys and MACs are derived from it."""
    secret_version: int = 1
    admin_database_url: Secret = Secret("")
    """Only `migrate` and the ops scripts that need it."""
    model_base_url: str = ""
    model_api_key: Secret = Secret("")
    model_timeout_seconds: float = 120.0
    model_retries_max: int = 20
    """Of one run: model calls made again after the provider was overloaded or silent."""
    model_retry_seconds_max: float = 300.0
    """Of one run at one worker: spent in such calls and in the pauses after them."""
    default_model: str = "anthropic/claude-haiku-4.5"
    sandbox: Literal["local", "none"] = "local"
    host: str = "127.0.0.1"
    port: int = 8080
    api_base_url: str = ""
    """Where workers reach the API for what runs call; empty = `http://HOST:PORT`."""
    cors_origins: tuple[str, ...] = ()
    key_prefix: str = "recoup_sk_"
    key_ttl_seconds: int = 900
    lease_seconds: float = 3.0
    worker_slots: int = 64
    """Runs that one worker process drives at once."""
    watchdog_seconds: float = 30.0
    """An event loop that has not ticked for this long no longer renews its leases."""
    step_grace_seconds: float = 5.0
    """How long a step in hand may go on after SIGTERM before its job is handed over."""
    job_timeout_seconds: float = 48 * 60 * 60
    """arq's own limit, above the longest legal run: 111 model calls of 15 minutes and their tools
    (`plan.MODEL_STEPS_MAX`, `model_step.MODEL_CALL_SECONDS_MAX`). What meets it has lost a try."""
    tool_timeout_seconds: float = 120.0
    chunks_kept_seconds: int = 3600
    """How long an ended run's live frames stay in Redis; the log gives the same ones for ever."""
    scripted_models: bool = False
    dev_mode: bool = False
    crash_at: str = ""
    """For tests: where the process kills itself (`crash_at.POINTS`)."""
    data_dir: Path = Path(".runledger")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


def load(environ: Mapping[str, str]) -> Settings:
    """Settings from `environ`, or one BadSettings that names every bad value (not its content)."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(Settings):
        name = PREFIX + field.name.upper()
        text = environ.get(name, "").strip()
        if not text:
            if field.required:
                problems.append(f"{name} is not set")
            continue
        try:
            values[field.name] = _parse(field.type, text)
        except ValueError as error:
            problems.append(f"{name} {error}")
    problems += [f"{PREFIX}{name.upper()} {what}" for name, what in _unfit(values)]
    if "crash_at" in values and not (values.get("dev_mode") or values.get("scripted_models")):
        problems.append(
            f"{PREFIX}CRASH_AT kills the process, so it needs {PREFIX}DEV_MODE=1"
            f" or {PREFIX}SCRIPTED_MODELS=1"
        )
    problems += _unknown(environ)
    if problems:
        raise BadSettings("; ".join(problems))
    return Settings(**values)


def _parse(kind: Any, text: str) -> Any:
    if kind is Secret:
        return Secret(text)
    if kind is Path:
        return Path(text)
    if kind is bool:
        if text not in {"0", "1"}:
            raise ValueError("must be 0 or 1")
        return text == "1"
    if kind == tuple[str, ...]:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        raise ValueError(f"must be {_describe(kind)}") from None


def _describe(kind: Any) -> str:
    if kind is int:
        return "a whole number"
    if kind is float:
        return "a number"
    words = getattr(kind, "__args__", ())
    return "one of " + ", ".join(str(word) for word in words)


_DAY_SECONDS: Final = 24 * 60 * 60
_HOUR_SECONDS: Final = 60 * 60

RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "secret_version": (1, 2**31 - 1),
    "port": (0, 65535),
    "key_ttl_seconds": (60, _DAY_SECONDS),
    "lease_seconds": (0.5, 300),
    "worker_slots": (1, 4096),
    "watchdog_seconds": (0.5, _HOUR_SECONDS),
    "step_grace_seconds": (0, _HOUR_SECONDS),
    "job_timeout_seconds": (1, 7 * _DAY_SECONDS),
    "model_timeout_seconds": (0.1, _HOUR_SECONDS),
    "model_retries_max": (0, 1000),
    "model_retry_seconds_max": (0, _DAY_SECONDS),
    "tool_timeout_seconds": (0.1, _HOUR_SECONDS),
    "chunks_kept_seconds": (1, _DAY_SECONDS),
}
"""The least and the most of every number there is."""

_POSTGRES: Final = (
    lambda value: urls.is_postgres(value.reveal()),
    "must be like postgresql://user:password@host:5432/database, special characters as %XX",
)
_HTTP: Final = (urls.is_http, "must be like https://host:443/path, without user, query or fragment")
_FORMS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "database_url": _POSTGRES,
    "admin_database_url": _POSTGRES,
    "redis_url": (
        lambda value: urls.is_redis(value.reveal()),
        "must be like redis://user:password@host:6379/0, special characters as %XX",
    ),
    "model_base_url": _HTTP,
    "api_base_url": _HTTP,
    "crash_at": (crash_at.is_known, f"must be {crash_at.FORM}"),
    "secret": (
        lambda value: len(value.reveal().encode()) >= SECRET_BYTES_MIN,
        f"must have at least {SECRET_BYTES_MIN} bytes",
    ),
}


def _unfit(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Written so that a NaN, which compares with nothing, is out of range."""
    out_of_range = [
        (name, f"must be {low:g} to {high:.15g}")
        for name, (low, high) in RANGES.items()
        if name in values and not low <= values[name] <= high
    ]
    return out_of_range + [
        (name, what)
        for name, (ok, what) in _FORMS.items()
        if name in values and not ok(values[name])
    ]


def _unknown(environ: Mapping[str, str]) -> list[str]:
    """A misspelt setting would otherwise leave its default in force, unnoticed."""
    known = [field.name.upper() for field in msgspec.structs.fields(Settings)]
    given = {name for name, text in environ.items() if name.startswith(PREFIX) and text.strip()}
    strangers = given - {PREFIX + name for name in known} - NOT_FOR_PROCESSES
    return [f"{name} is not a setting{_nearest(name, known)}" for name in sorted(strangers)]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1)
    return f"; did you mean {PREFIX}{close[0]}?" if close else ""
