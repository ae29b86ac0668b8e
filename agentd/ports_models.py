"""The outside world of the models' files, as a Protocol; see ports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A file of a model that is missing, torn or wrong."""

    path: str
    problem: str
    """What is wrong, in one clause: "ends after 3.2G of 4.9G"."""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """What was looked at, and what was found."""

    files: int
    size: int
    """Bytes of weights."""
    problems: tuple[FileProblem, ...] = ()
    checksums: int = 0
    """Files whose content was compared with a checksum."""
    notes: tuple[str, ...] = ()
    """What is unusual and keeps nobody from loading it."""


class ModelFiles(Protocol):
    """Directories with a model's weights. Nothing here blocks the loop; what cannot be read is a problem, no error."""

    async def weights(self, path: str) -> int:
        """Bytes of the weight files in the directory; 0 when there is none, or the disk does not answer."""
        ...

    async def check(self, path: str, *, checksums: bool = False) -> CheckedFiles:
        """Whether the files are whole, by their headers and the index; with `checksums` by their content, too, where a
        list of checksums is there. Cancelling ends the reading."""
        ...

    async def warm(self, path: str, limit: int, told: Callable[[int, int], None]) -> int:
        """Read the weight files into the page cache, no more than `limit` bytes; told(bytes so far, bytes in all).
        Returns the bytes that are cached. Cancelling ends it within a moment."""
        ...
