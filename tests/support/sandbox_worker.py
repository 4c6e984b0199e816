"""A worker to be killed: `python -m tests.support.sandbox_worker DATA_DIR TOKEN`.

In one sandbox it runs a command, a daemon of that command, and a detached command, whose
arguments hold `TOKEN-inside`.
"""

import asyncio
import sys
from pathlib import Path

from tests.support.sandboxes import key, new_spec
from workers.adapters.sandbox_local import LocalSandboxProvider


async def main(data_dir: Path, token: str) -> None:
    beat = f"exec -a {token}-inside sleep 600"
    provider = LocalSandboxProvider(data_dir, api_base_url="")
    sandbox, _ = await provider.open(new_spec(), key=key)
    await sandbox.spawn(beat)
    await sandbox.exec(f"setsid bash -c '{beat}' & {beat}", timeout_seconds=600)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
