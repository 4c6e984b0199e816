"""What a rebuild makes, leaves behind and throws away; what it looks up in the moment of a swap."""

import pytest

from runs_domain.settings import Secret
from runs_domain.storage import rebuild_catch_up
from runs_domain.storage.long_work import open_session
from runs_domain.storage.rebuild_state import OWNER
from tests.support.servers import Database, as_owner

ACCOUNTS = 20_000
ERASED = 20
BUFFERS_MAX = ERASED + 5
"""Each key's row, and the way through the index."""
KEYS = """
INSERT INTO account_data_keys (account_id, wrapped, secret_version, destroyed_at)
SELECT md5(number::text)::uuid, CASE WHEN number %% %s > 0 THEN ''::bytea END, 1,
    CASE WHEN number %% %s = 0 THEN clock_timestamp() END
FROM generate_series(1, %s) AS number
"""


@pytest.mark.parametrize("analyzed", [False, True])
async def test_who_was_erased_meanwhile_is_found_whatever_the_number_of_accounts(
    database: Database, analyzed: bool
) -> None:
    """It is looked up while readers wait for the swap."""
    every = ACCOUNTS // ERASED
    as_owner(database, KEYS, every, every, ACCOUNTS)
    if analyzed:
        as_owner(database, "ANALYZE account_data_keys")
    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)" + rebuild_catch_up._ERASED
    async with open_session(Secret(database.admin_url), name="test", parameters=OWNER) as owner:
        ((since,),) = await owner.fetch("SELECT now()")
        ((plan,),) = await owner.fetch(explain, (since,))
    look = plan[0]["Plan"]
    assert look["Actual Rows"] == ERASED
    assert look["Shared Hit Blocks"] + look["Shared Read Blocks"] <= BUFFERS_MAX
