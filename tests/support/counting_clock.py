"""The real clock, which counts how often somebody paused."""

from typing_extensions import override

from runs_domain.storage.identity import SystemClock


class CountingClock(SystemClock):
    def __init__(self) -> None:
        self.pauses = 0

    @override
    async def sleep(self, seconds: float) -> None:
        self.pauses += 1
        await super().sleep(seconds)
