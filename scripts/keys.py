#!/usr/bin/env python3
"""Set up accounts, members and API keys: `.venv/bin/python scripts/keys.py COMMAND`.

Works with the processes' RUNLEDGER_* settings, and RUNLEDGER_ADMIN_DATABASE_URL for the owner's
role. A key is printed once and cannot be asked for again; the database holds its MAC only.
"""

from operating.script import ADMIN_URL, leave_with, owners_settings, told  # isort: split

import argparse
import asyncio
import sys
from uuid import UUID

from runs_domain.ids import AccountId, KeyId
from runs_domain.keys import secrets_of
from runs_domain.settings import Settings
from runs_domain.storage.accounts import Accounts
from runs_domain.storage.connection import ReconnectingConnection

NAME = "runledger keys"
OWNER_SECONDS_MAX = 5.0
"""One statement, connecting included."""
SECONDS_PER_DAY = 24 * 60 * 60
DAYS_MAX = 3650


def main() -> int:
    options = _parser().parse_args()

    def work() -> int:
        return asyncio.run(_run(owners_settings("accounts are the owner's"), options))

    return told("keys", ADMIN_URL, NAME, work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/keys.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    account = commands.add_parser("account", help="make an account; prints its id")
    account.add_argument("name")
    account.add_argument("--org", action="store_true", help="it may act for its members")
    member = commands.add_parser("member", help="let an organisation act for an account")
    member.add_argument("org", type=UUID)
    member.add_argument("account", type=UUID)
    member.add_argument("--end", action="store_true", help="not any more")
    mint = commands.add_parser("mint", help="make a key; prints its id and the key")
    mint.add_argument("account", type=UUID)
    mint.add_argument("--days", type=int, help="how long it is good; without it, until revoked")
    revoke = commands.add_parser("revoke", help="refuse a key from the next request on")
    revoke.add_argument("account", type=UUID)
    revoke.add_argument("key", type=UUID, help="its id, not the key itself")
    return parser


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    owner = ReconnectingConnection(
        settings.admin_database_url, name=NAME, seconds_max=OWNER_SECONDS_MAX
    )
    try:
        accounts = Accounts(owner, secrets_of(settings), settings.key_prefix)
        return await _obey(accounts, options)
    finally:
        await owner.close()


async def _obey(accounts: Accounts, options: argparse.Namespace) -> int:
    match options.command:
        case "account":
            print(await accounts.create("org" if options.org else "person", options.name))
        case "member":
            org, account = AccountId(options.org), AccountId(options.account)
            if options.end:
                return _unless(await accounts.end_membership(org, account), "no such membership")
            found = await accounts.exists(org, "org") and await accounts.exists(account)
            if found:
                await accounts.add_member(org, account)
            return _unless(found, "no such organisation or account")
        case "mint":
            return await _mint(accounts, AccountId(options.account), options.days)
        case "revoke":
            revoked = await accounts.revoke_key(AccountId(options.account), KeyId(options.key))
            return _unless(revoked, "no such key of that account, or it was revoked before")
    return 0


async def _mint(accounts: Accounts, account: AccountId, days: int | None) -> int:
    if days is not None and not 1 <= days <= DAYS_MAX:
        return _unless(False, f"--days takes 1 to {DAYS_MAX}")
    if not await accounts.exists(account):
        return _unless(False, "no such account")
    if await accounts.is_erased(account):
        return _unless(False, "the account was erased")
    ttl_seconds = None if days is None else days * SECONDS_PER_DAY
    minted = await accounts.mint_key(account, ttl_seconds=ttl_seconds)
    print(f"{minted.key_id} {minted.secret.reveal()}")
    return 0


def _unless(done: bool, sentence: str) -> int:
    if not done:
        print(f"keys: {sentence}", file=sys.stderr)
    return 0 if done else 1


if __name__ == "__main__":
    leave_with(main)
