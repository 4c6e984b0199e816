"""The files of a bundle, a line at a time, each held to what the manifest says of it."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from bundle_check.bundle import BadBundleError, open_plain, shown
from bundle_check.manifest import FileFacts

Tell: TypeAlias = Callable[[str], None]
"""Takes a sentence about something that is not as it should be."""
NAMES_TOLD_MAX: Final = 20
"""Of files that do not belong here."""


def lines_of(place: Path, file: FileFacts, line_bytes_max: int, tell: Tell) -> Iterator[bytes]:
    """Its lines, without their line feeds. Memory: one line.

    What is wrong with the file as a whole is told when it has been read to its end.
    """
    try:
        with open_plain(place, file.name) as opened:
            yield from _read(opened, file, line_bytes_max, tell)
    except BadBundleError as error:
        tell(str(error))
    except FileNotFoundError:
        tell(f"{file.name} is missing")
    except OSError as error:
        tell(f"{file.name} cannot be read: {error.strerror}")


def _read(opened: BinaryIO, file: FileFacts, line_bytes_max: int, tell: Tell) -> Iterator[bytes]:
    digest, lines, size = hashlib.sha256(), 0, 0
    whole = True
    while line := opened.readline(line_bytes_max + 1):
        digest.update(line)
        size += len(line)
        lines += whole
        whole = line.endswith(b"\n")
        if not whole and len(line) > line_bytes_max:
            tell(f"{file.name}: line {lines} is longer than {line_bytes_max} bytes")
            return
        if size > file.bytes:
            tell(f"{file.name} has more than the {file.bytes} bytes that the manifest says")
            return
        yield line.removesuffix(b"\n")
    if not whole:
        tell(f"{file.name}: its last line has no end")
    if (size, lines) != (file.bytes, file.lines):
        tell(
            f"{file.name} has {size} bytes and {lines} lines, and the manifest says"
            f" {file.bytes} and {file.lines}"
        )
    elif digest.hexdigest() != file.sha256:
        tell(f"{file.name} does not have the SHA-256 that the manifest says")


def tell_strangers(place: Path, names: frozenset[str], tell: Tell) -> None:
    """Whatever is in the directory and in no list of the manifest's."""
    strange = 0
    for path in place.iterdir():
        if path.name not in names:
            strange += 1
            if strange <= NAMES_TOLD_MAX:
                tell(f"{shown(path.name)} does not belong to the bundle")
    if strange > NAMES_TOLD_MAX:
        tell(f"{strange - NAMES_TOLD_MAX} more files do not belong to the bundle")
