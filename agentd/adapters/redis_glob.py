"""glob(3) itself: Redis expands `include` with it, and the standard library's differs in classes and backslashes."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from dataclasses import dataclass

_MARKS = frozenset("*?[")
_QUOTED = "\\*?["
_HARMLESS = frozenset({errno.ENOENT, errno.ENOTDIR})
_NO_SPACE = 1
_CTYPE_AND_COLLATE = 1 | 8
_ERROR = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int)


class _Result(ctypes.Structure):
    """glob_t of glibc and musl; what follows the first three members is theirs."""

    _fields_ = (
        ("count", ctypes.c_size_t),
        ("paths", ctypes.POINTER(ctypes.c_char_p)),
        ("offset", ctypes.c_size_t),
        ("rest", ctypes.c_char * 48),
    )


@dataclass(frozen=True, slots=True)
class Matches:
    paths: tuple[str, ...]
    """In the order of the C locale; the server sorts by the LC_COLLATE that it was started with."""
    refused: tuple[tuple[str, int], ...] = ()
    """(directory, errno): what could not be looked into, where the server may find more than we do."""


def has_wildcard(argument: str) -> bool:
    """As Redis asks."""
    return not _MARKS.isdisjoint(argument)


def glob(pattern: str, directory: str) -> Matches:
    """`directory` is where a relative pattern begins; absolute paths come back. Blocks."""
    whole = pattern if pattern.startswith("/") else f"{_quote(directory.rstrip('/'))}/{pattern}"
    refused: list[tuple[str, int]] = []

    def failed(path: bytes, number: int) -> int:
        if number not in _HARMLESS:
            refused.append((os.fsdecode(path), number))
        return 0

    result = _Result()
    libc = _libc()
    before = libc.uselocale(_plain())  # Of this thread alone: to the server a letter is a byte.
    try:
        status = libc.glob(os.fsencode(whole), 0, _ERROR(failed), ctypes.byref(result))
    finally:
        libc.uselocale(before)
    try:
        if status == _NO_SPACE:
            raise MemoryError
        found = tuple(os.fsdecode(result.paths[index] or b"") for index in range(result.count if status == 0 else 0))
    finally:
        libc.globfree(ctypes.byref(result))
    return Matches(found, tuple(refused))


def _quote(text: str) -> str:
    return "".join(f"\\{char}" if char in _QUOTED else char for char in text)


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.glob.argtypes = (ctypes.c_char_p, ctypes.c_int, _ERROR, ctypes.POINTER(_Result))
    libc.globfree.argtypes = (ctypes.POINTER(_Result),)
    libc.globfree.restype = None
    libc.newlocale.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    libc.newlocale.restype = ctypes.c_void_p
    libc.uselocale.argtypes = (ctypes.c_void_p,)
    libc.uselocale.restype = ctypes.c_void_p
    return libc


@functools.cache
def _plain() -> int | None:
    """The C locale; None, which changes nothing, where there is none."""
    found: int | None = _libc().newlocale(_CTYPE_AND_COLLATE, b"C", None)
    return found
