"""A person is erased from a whole stack while one of their runs speaks: what is left of them?

Searched are every table, PostgreSQL's own files, Redis and its files, the data folder, the logs
and what the API answers; for the words, and for the data key, in every form.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runs_domain.ids import AccountId
from runs_domain.keys import ServerSecrets
from runs_domain.settings import Secret
from runs_domain.storage.sealing import DATA_KEY_WRAP, NONCE_BYTES
from tests.support.canaries import Canaries
from tests.support.operators import run_script
from tests.support.rest import PLAYBOOK, Rest, Run, bash
from tests.support.servers import Database, as_owner
from tests.support.stacks import BreakableStack
from tests.support.waiting import until

ERASURE_SECONDS_MAX = 100.0
MARK = "kanarié7f3a91d2"
WORDS = {
    what: f"{MARK}-{what}"
    for what in ("prompt", "text", "input", "output", "metadata", "file", "live", "name")
}
WAL = "pg_wal"
"""Holds everything until its segments are written over: docs/erasure.md says so."""


class Person:
    def __init__(self, stack: BreakableStack) -> None:
        self.stack = stack
        self.env: dict[str, str] = dict(stack.details["env"])
        name = f"{WORDS['name']} of a person"
        self.account = AccountId(UUID(self.script("keys.py", "account", name)))
        self.script("keys.py", "member", stack.details["orgAccountId"], self.account)
        self.key = self.script("keys.py", "mint", self.account).split()[1]

    def script(self, name: str, *arguments: object, code: int = 0, **env: str) -> str:
        done = run_script(
            name, *map(str, arguments), env=self.env | env, seconds_max=ERASURE_SECONDS_MAX
        )
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout.strip() or done.stderr.strip()

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        url, owner = (self.env[f"RUNLEDGER_{one}_URL"] for one in ("DATABASE", "ADMIN_DATABASE"))
        return as_owner(Database("", url, owner), statement, *values)

    def data_keys(self) -> dict[str, bytes]:
        """As it is stored, and as it is used."""
        ((wrapped, version),) = self.query(
            "SELECT wrapped, secret_version FROM account_data_keys WHERE account_id = %s",
            self.account,
        )
        secrets = ServerSecrets({1: Secret(self.env["RUNLEDGER_SECRET"])}, current=1)
        wrapping = AESGCM(secrets.subkey(DATA_KEY_WRAP, version))
        raw = wrapping.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], self.account.bytes)
        return {"the wrapped key": wrapped, "the data key": raw}

    def found(self, canaries: Canaries) -> set[str]:
        """Everything that is found anywhere."""
        self.query("CHECKPOINT")
        data_dir = Path(self.env["RUNLEDGER_DATA_DIR"])
        found = set(canaries.found_in_tables(self.env["RUNLEDGER_ADMIN_DATABASE_URL"]))
        found |= set(canaries.found_in_files(data_dir, without=(WAL,)))
        found |= set(canaries.found_in_redis(self.env["RUNLEDGER_REDIS_URL"]))
        metrics = httpx.get(f"{self.stack.details['baseUrl']}/metrics", trust_env=False)
        return found | set(canaries.found_in(metrics.content, "/metrics"))


@pytest.fixture
def person(broken: BreakableStack) -> Person:
    broken.start_worker()
    return Person(broken)


@pytest.fixture
async def client(person: Person) -> AsyncIterator[Rest]:
    async with Rest(person.stack.details["baseUrl"], person.key) as one:
        yield one


@pytest.fixture
async def org(person: Person) -> AsyncIterator[Rest]:
    """Acts for the person as long as the membership lasts."""
    async with Rest(person.stack.details["baseUrl"], person.stack.details["orgApiKey"]) as one:
        yield one


async def say_everything(client: Rest) -> Run:
    command = f"echo {WORDS['output']}; echo {WORDS['file']} > notes # {WORDS['input']}"
    calls = [bash(command, text=f"{WORDS['text']} working"), {"text": f"{WORDS['text']} done"}]
    prompt = json.dumps({"calls": calls}, ensure_ascii=False)
    run = await client.start(prompt, PLAYBOOK, metadata={"note": WORDS["metadata"]})
    await client.ended(run)
    said = json.dumps(await client.messages(run), ensure_ascii=False)
    assert all(WORDS[what] in said for what in ("text", "input", "output")), said
    await client.ended(await client.start(WORDS["prompt"]))
    return run


async def speak_for_minutes(client: Rest) -> Run:
    call = {"text": f"{WORDS['live']} " * 500, "delta_ms": 200}
    return await client.play(call)


@pytest.mark.timeout(180)
async def test_an_erased_person_is_nowhere_to_be_found_and_their_history_holds(
    person: Person, client: Rest, org: Rest
) -> None:
    run = await say_everything(client)
    live = await speak_for_minutes(client)
    async with client.watching(live) as watch:
        await watch.says(WORDS["live"])
        await until(lambda: len(messages_of(person)) >= 6)
        (leftover := client_sandbox(person, run)).mkdir(parents=True)
        (leftover / "notes").write_text(WORDS["file"])
        export(person, "before")
        words: dict[str, str | bytes] = {**WORDS, **person.data_keys()}
        canaries = Canaries(words)
        before = person.found(canaries)
        history = await client.history(run)

        erase = ("erase_account.py", person.account, "--yes", "--json")
        receipt = json.loads(await asyncio.to_thread(person.script, *erase))
        assert watch.done, "nobody goes on reading what was erased"

    assert receipt["complete"] is True
    assert receipt["left"] == []
    assert receipt["kept"]["untouched"] is True
    assert receipt["cleared"]["runsCancelled"] == 1
    assert receipt["cleared"]["sandboxes"] == 1
    assert receipt["cleared"]["exportBundles"] == 1

    # What there was to be found, so that finding nothing tells something.
    for word, place in (
        ("name (raw)", "public.accounts"),
        ("live (raw)", "Redis rl:{"),
        ("prompt (raw)", "Redis rl:{"),
        ("live (raw)", "valkey/appendonlydir"),
        ("file (raw)", "sandboxes/"),
        ("text (raw)", "exports/before/content"),
        ("the wrapped key (hex)", "public.account_data_keys"),
        ("the wrapped key (raw)", "postgres/base/"),
        ("name (raw)", "postgres/base/"),
    ):
        assert any(word in one and place in one for one in before), (word, place)
    assert person.found(canaries) == set()
    assert not any("the data key (" in one for one in before)

    (person.stack.sandboxes / "planted").write_text(WORDS["prompt"])
    assert person.found(canaries) == {"prompt (raw) in sandboxes/planted"}
    (person.stack.sandboxes / "planted").unlink()

    await nobody_gets_in(person, client, org, run)
    await its_history_is_as_it_was(org, run, live, history)
    the_scripts_still_work(person, run)
    assert person.found(canaries) == set()


def messages_of(person: Person) -> list[tuple[Any, ...]]:
    return person.query("SELECT place FROM messages WHERE account_id = %s", person.account)


def client_sandbox(person: Person, run: Run) -> Path:
    """Where a worker that died may have left it."""
    return person.stack.workspace_of(run.session_id)


async def nobody_gets_in(person: Person, client: Rest, org: Rest, run: Run) -> None:
    for path in (f"/api/chat/runs/{run.run_id}", f"/api/chats/{run.chat_id}/messages"):
        assert (await client.http.get(path)).status_code == 401
        assert (await org.http.get(path)).status_code == 404
    body = {"prompt": "again", "model": "scripted/echo", "accountId": str(person.account)}
    assert (await org.http.post("/api/chat/runs", json=body)).status_code == 403
    person.script("keys.py", "member", person.stack.details["orgAccountId"], person.account)
    refused = await org.http.post("/api/chat/runs", json=body)
    assert refused.status_code == 403
    assert refused.json() == {
        "status": "error",
        "error": "The account was erased",
        "code": "forbidden",
    }


async def its_history_is_as_it_was(
    org: Rest, run: Run, live: Run, before: list[dict[str, Any]]
) -> None:
    """Read by the organisation, which was let in again."""
    after = await org.history(run)
    kept = ("type", "version", "position", "at", "actor", "subject", "attempt", "hash", "prev")
    assert [[one[name] for name in kept] for one in after] == [
        [one[name] for name in kept] for one in before
    ]
    assert {one["type"] for one in after if one.get("erased")} == {
        "run.requested.v1",
        "run.message_persisted.v1",
    }
    assert MARK not in json.dumps([after, await org.history(live)], ensure_ascii=False)
    assert await org.status(run) == "completed"
    assert await org.status(live) == "cancelled"
    assert [one["parts"] for one in await org.messages(run)] == [[]]
    for one in (run, live):
        stream = await org.http.get(f"/api/chat/runs/{one.run_id}/stream")
        assert stream.status_code in {200, 204}
        assert MARK not in stream.text


def the_scripts_still_work(person: Person, run: Run) -> None:
    person.script("rebuild_projections.py", "--workers", "1")
    assert messages_of(person) == []
    person.script("verify_views.py")
    checked = json.loads(
        person.script("check_invariants.py", "--json", "--account", person.account)
    )
    assert checked["ok"] is True, checked
    assert "erased" in person.script("replay_run.py", run.run_id)
    person.script("verify_history.py", run.run_id)
    bundle = export(person, "after")
    person.script("verify_history.py", "--bundle", bundle)


def export(person: Person, name: str) -> Path:
    """With readable content, where there is any."""
    bundle = Path(person.env["RUNLEDGER_DATA_DIR"]) / "exports" / name
    bundle.parent.mkdir(exist_ok=True)
    whose = ("--account", person.account, "--unsealed", "--out", bundle)
    person.script("export_history.py", *whose)
    return bundle
