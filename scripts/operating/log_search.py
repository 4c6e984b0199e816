"""Searches log files for what must not stand in them in clear."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from runs_domain.leaks import Leaks

BLOCK_BYTES = 1024 * 1024
GZIP = b"\x1f\x8b"
OTHERS = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
"""How a file begins that is packed in a way nobody unpacks here."""


class LogSearch:
    """`for sentence in LogSearch(leaks).found_in(place)`, then what it has looked at."""

    def __init__(self, leaks: Leaks) -> None:
        self._leaks = leaks
        self.files = 0
        """Those that were read to their end."""
        self.not_searched: list[str] = []
        """A sentence for each of the others."""

    def found_in(self, place: Path) -> Iterator[str]:
        """One sentence for each file and kind of leak; `place` is a file or a directory."""
        every = place.rglob("*") if place.is_dir() else [place]
        for path in sorted(file for file in every if file.is_file()):
            found: set[str] = set()
            try:
                self._search(path, found)
            except (OSError, EOFError, zlib.error) as error:
                self.not_searched.append(f"{path}: {type(error).__name__}")
            yield from (f"{sentence} in {path}" for sentence in sorted(found))

    def _search(self, path: Path, found: set[str]) -> None:
        with path.open("rb") as file:
            start = file.read(max(map(len, OTHERS)))
            file.seek(0)
            for sign, name in OTHERS.items():
                if start.startswith(sign):
                    self.not_searched.append(f"{path}: it is packed with {name}")
                    return
            if start.startswith(GZIP):
                with gzip.open(file) as unpacked:
                    self._read(unpacked, found)
            else:
                self._read(file, found)
        self.files += 1

    def _read(self, file: IO[bytes] | gzip.GzipFile, found: set[str]) -> None:
        """A block at a time; a leak may lie across two."""
        tail = b""
        while block := file.read(BLOCK_BYTES):
            found.update(self._leaks.found_in(tail + block))
            tail = (tail + block)[-self._leaks.overlap_bytes :]
