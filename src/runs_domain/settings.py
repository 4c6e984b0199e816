"""One frozen object for everything a process is told from outside; read once, passed on.

Every variable is `RUNLEDGER_` + the field's name in capitals. A bad value never stops the
reading: one error names all of them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from typing_extensions import override

from runs_domain.errors import RunledgerError

PREFIX: Final = "RUNLEDGER_"
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
    job_timeout_seconds: float = 6 * 60 * 60
    """arq's own limit; above the longest legal run."""
    tool_timeout_seconds: float = 120.0
    scripted_models: bool = False
    dev_mode: bool = False
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
    problems += [f"{PREFIX}{name.upper()} {what}" for name, what in _out_of_range(values)]
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


_RANGES: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "secret": (
        lambda value: len(value.reveal().encode()) >= SECRET_BYTES_MIN,
        f"must have at least {SECRET_BYTES_MIN} bytes",
    ),
    "secret_version": (lambda value: value >= 1, "must be 1 or more"),
    "port": (lambda value: 0 <= value <= 65535, "must be 0 to 65535"),  # noqa: PLR2004
    "key_ttl_seconds": (lambda value: 60 <= value <= 86400, "must be 60 to 86400"),  # noqa: PLR2004
    "lease_seconds": (lambda value: value >= 0.5, "must be 0.5 or more"),  # noqa: PLR2004
    "worker_slots": (lambda value: value >= 1, "must be 1 or more"),
    "model_timeout_seconds": (lambda value: value > 0, "must be more than 0"),
    "tool_timeout_seconds": (lambda value: value > 0, "must be more than 0"),
}


def _out_of_range(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, what)
        for name, (ok, what) in _RANGES.items()
        if name in values and not ok(values[name])
    ]
