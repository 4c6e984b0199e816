"""The most memory that a process and each of its children ever held, as the kernel counts it."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_SECONDS = 0.05


class PeakMemory:
    """`with PeakMemory(pid) as peak: …; peak.mib_per_process` of `pid` and all below it.

    Each is VmHWM, the largest resident set so far, shared libraries included; a process that
    lives for less than SAMPLE_SECONDS may be missed.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peaks: dict[int, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def mib_per_process(self) -> list[float]:
        """Largest first."""
        return sorted((round(kib / 1024, 1) for kib in self._peaks.values()), reverse=True)

    @property
    def mib_max(self) -> float:
        return max(self.mib_per_process, default=0.0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            for pid in _tree(self._pid):
                self._peaks[pid] = max(self._peaks.get(pid, 0), _peak_kib(pid))
            if self._ended.wait(SAMPLE_SECONDS):
                return


def _tree(pid: int) -> list[int]:
    try:
        below = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:  # it has ended meanwhile
        below = []
    return [pid, *(one for child in below for one in _tree(child))]


def _peak_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
