"""Single values of [redis]: save points, sizes as Redis writes them, names of credentials."""

from __future__ import annotations

import re

from agentd.core.quantities import QuantityError

SAVE_FORM = 'pairs of seconds and changes like "3600 1 300 100", or "" for no snapshots'
CREDENTIAL_FORM = 'the name of a credential, as LoadCredential= has it: "redis-password"'
MOST = 2**31 - 1
"""Redis keeps changes in 32 bits and takes larger numbers for others without a word."""

_NUMBER = re.compile(r"[0-9]{1,19}")
_CREDENTIAL = re.compile(r"[!-.0-9;-~]{1,255}")
_MEMORY = re.compile(r"([0-9]{1,19})([a-z]{0,2})")
_FACTORS = {"": 1, "b": 1, "k": 1000, "kb": 1 << 10, "m": 1000**2, "mb": 1 << 20, "g": 1000**3, "gb": 1 << 30}


def points(text: str) -> tuple[tuple[int, int], ...]:
    """Pairs of seconds and changes, in their order; () for no snapshots. Raises QuantityError."""
    words = text.split()
    if not all(_NUMBER.fullmatch(word) for word in words):
        raise QuantityError("is not a list of whole numbers")
    if len(words) % 2:
        raise QuantityError("has an odd count of numbers, each of its points needs seconds and changes")
    numbers = [int(word) for word in words]
    if not all(1 <= number <= MOST for number in numbers):
        raise QuantityError(f"has a number that is not between 1 and {MOST}")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def save_points(text: str) -> str:
    """The same text as CONFIG GET shows it: single blanks, no leading zeros. Raises QuantityError."""
    return " ".join(f"{seconds} {changes}" for seconds, changes in points(text))


def credential(text: str) -> str:
    """The name of a file in $CREDENTIALS_DIRECTORY: printable, no slash, colon or blank. Raises QuantityError."""
    if text and (not _CREDENTIAL.fullmatch(text) or text in (".", "..")):
        raise QuantityError("is not the name of a credential")
    return text


def memory(text: str) -> int | None:
    """Bytes of a size as redis.conf writes it: "64mb" (powers of 1024), "64m" (of 1000), "67108864"."""
    match = _MEMORY.fullmatch(text.strip().lower())
    return int(match[1]) * _FACTORS[match[2]] if match and match[2] in _FACTORS else None


def readable(size: float) -> str:
    """Bytes for a sentence: "1.5 GiB", "64.0 MiB"."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
