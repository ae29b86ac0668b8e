"""What of a file is in memory, as the kernel tells it; for tests and measurements."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CACHESTAT = 451
"""Its number on every architecture, since Linux 6.5."""


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recent"))


def cached(path: Path) -> int | None:
    """Bytes of the file that are in the page cache; None where the kernel does not tell."""
    found, size = _Counts(), path.stat().st_size
    asked = _Range(0, size)
    with path.open("rb") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(_CACHESTAT, file.fileno(), ctypes.byref(asked), ctypes.byref(found), 0) != 0:
            return None
    return min(size, int(found.cached) * os.sysconf("SC_PAGE_SIZE"))


def drop(path: Path) -> None:
    """Ask the kernel to forget the file's pages, once they are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
