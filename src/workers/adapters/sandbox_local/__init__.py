"""Commands on this host: one bubblewrap a command, one network namespace a run.

A shared kernel is the wall: for your own agents on your own host, not for hostile tenants.
Read `process.py` first, then `bwrap.py` (what a command sees), `netns.py` and `broker.py`.
"""

from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.probe import Verdict, probe
from workers.adapters.sandbox_local.provider import LocalSandboxProvider

__all__ = ["Limits", "LocalSandboxProvider", "Verdict", "probe"]
