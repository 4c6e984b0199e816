"""`runledger doctor`: what this host offers, as a list that says what is missing and the remedy."""

import asyncio
import errno
import os
import platform
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TextIO

import psycopg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from runs_domain.errors import StoreUnavailable
from runs_domain.keys import secrets_of
from runs_domain.model_ids import is_local_installed, is_served
from runs_domain.settings import BadSettings, Settings, load
from runs_domain.storage.connection import ReconnectingConnection, check_urls
from runs_domain.storage.secret_check import WRONG_SECRET, is_right_secret
from runs_domain.storage.why_away import why_away
from workers.adapters.sandbox_local.probe import probe

ASK_SECONDS_MAX = 5.0
EVICTS = (
    "maxmemory-policy is {policy}: a full Redis throws away jobs, which come again after seconds, "
    "and what live runs have streamed; noeviction makes new runs wait instead"
)

NOT_SERVED = (
    "no adapter serves RUNLEDGER_DEFAULT_MODEL, so a run that names no model is refused; "
    "RUNLEDGER_MODEL_BASE_URL brings a gateway's models"
)


class Finding(NamedTuple):
    what: str
    ok: bool
    text: str
    needed: bool = True


async def examine(environ: Mapping[str, str], out: TextIO) -> int:
    """Print one line a finding; 1 if something that is needed is missing."""
    failed = False
    async for finding in _findings(environ):
        mark = "ok  " if finding.ok else ("FAIL" if finding.needed else "note")
        out.write(f"{mark} {finding.what}: {finding.text}\n")
        out.flush()
        failed |= finding.needed and not finding.ok
    return int(failed)


async def _findings(environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    yield Finding("python", ok=True, text=f"{platform.python_version()} at {sys.executable}")
    try:
        settings = load(environ)
        check_urls(settings)
    except BadSettings as error:
        yield Finding("settings", ok=False, text=str(error))
    else:
        yield Finding("settings", ok=True, text="complete")
        postgres = await _postgres(settings)
        yield postgres
        if postgres.ok:
            yield await _secret(settings)
        async for finding in _redis(settings):
            yield finding
        if not is_served(settings.default_model, settings):
            yield Finding("default model", ok=False, text=NOT_SERVED, needed=False)
    if environ.get("RUNLEDGER_SANDBOX") == "none":
        yield Finding("sandbox", ok=True, text="none is wanted: runs have no tools")
    else:
        async for finding in _sandbox(Path(environ.get("RUNLEDGER_DATA_DIR") or ".runledger")):
            yield finding
    here = is_local_installed()
    text = "installed" if here else "not installed; ./scripts/demo brings it where it exists"
    yield Finding("local/smollm2-135m", ok=here, text=text, needed=False)


async def _sandbox(data_dir: Path) -> AsyncIterator[Finding]:
    """Tried in a folder of its own beside or above `data_dir`: a doctor leaves nothing behind."""
    try:
        with TemporaryDirectory(prefix=".runledger-doctor-", dir=_standing(data_dir)) as scratch:
            verdict = await probe(Path(scratch))
    except OSError as error:
        yield Finding("data directory", ok=False, text=f"{data_dir}: {error.strerror}")
        return
    yield Finding("sandbox", ok=verdict.ok, text=verdict.text)
    for note in verdict.notes:
        yield Finding("sandbox", ok=False, text=note, needed=False)


def _standing(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that is there. Raises OSError for a file."""
    absolute = folder.absolute()
    found = next(place for place in (absolute, *absolute.parents) if place.exists())
    if not found.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(found))
    return found


async def _postgres(settings: Settings) -> Finding:
    try:
        async with asyncio.timeout(ASK_SECONDS_MAX):
            async with await psycopg.AsyncConnection.connect(
                settings.database_url.reveal()
            ) as connection:
                row = await (await connection.execute("SHOW server_version")).fetchone()
    except psycopg.Error as error:
        return Finding("postgres", ok=False, text=f"cannot be used: {why_away(error)}")
    except (TimeoutError, OSError) as error:
        return Finding("postgres", ok=False, text=f"does not answer ({type(error).__name__})")
    return Finding("postgres", ok=True, text=f"version {row[0] if row else 'unknown'}")


async def _secret(settings: Settings) -> Finding:
    connection = ReconnectingConnection(settings.database_url, name="runledger doctor")
    try:
        right = await is_right_secret(connection, secrets_of(settings))
    except StoreUnavailable as error:
        text = f"cannot be compared with what is sealed; has `runledger migrate` run? ({error})"
        return Finding("secret", ok=False, text=text, needed=False)
    finally:
        await connection.close()
    if right is None:
        return Finding("secret", ok=True, text="nothing is sealed with it yet")
    text = "the one this database was sealed with" if right else WRONG_SECRET
    return Finding("secret", ok=right, text=text)


async def _redis(settings: Settings) -> AsyncIterator[Finding]:
    redis: Redis = Redis.from_url(
        settings.redis_url.reveal(),
        socket_timeout=ASK_SECONDS_MAX,
        socket_connect_timeout=ASK_SECONDS_MAX,
    )
    try:
        info: dict[str, Any] = await redis.info()
    except (RedisError, OSError) as error:
        yield Finding("redis", ok=False, text=f"does not answer ({type(error).__name__})")
        return
    finally:
        await redis.aclose()
    version = info.get("valkey_version") or info.get("redis_version")
    yield Finding("redis", ok=True, text=f"version {version}")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        yield Finding("redis", ok=False, text=EVICTS.format(policy=policy), needed=False)
