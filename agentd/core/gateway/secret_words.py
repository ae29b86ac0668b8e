"""What looks like a key, so that it is never shown; and what is the name of an environment variable."""

from __future__ import annotations

import math
import re
from collections import Counter

HIDDEN = "(hidden: it looks like a key)"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PREFIX = re.compile(
    r"(sk|pk|rk)[-_]\S{3}|(hf|gsk|ghp|gho|glpat|xai|pplx|nvapi|r8|fw|tgp|csk|jina|pa|xoxb|ya29)[-_.]\S{8}"
    r"|AIza\S{16}|AKIA[A-Z0-9]{12}|eyJ\S{20}|Bearer\s",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]{24,}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_RUN = 16
"""Letters and digits without a mark between them; the parts of a model's name are shorter."""
_RANDOM = 3.3
"""Bits of a character; words have less, random letters and digits more."""


def is_variable(text: str) -> bool:
    """Can it be the name of a variable? A key that happens to look like one is none."""
    return _VARIABLE.fullmatch(text) is not None and not looks_secret(text)


def looks_secret(text: str) -> bool:
    """A key, a token, or an address with a password in it. It may be wrong either way."""
    if _IN_ADDRESS.search(text):
        return True
    word = text.strip()
    if word.startswith("os.environ/"):
        return False
    if _PREFIX.match(word):
        return True
    if _UUID.fullmatch(word):
        return True
    return _TOKEN.fullmatch(word) is not None and "/" not in word and any(map(_random, re.split("[-_]", word)))


def shown(value: object, longest: int = 80) -> str:
    """For a message: short, and never a key."""
    text = str(value)
    if looks_secret(text):
        return HIDDEN
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _random(text: str) -> bool:
    mixed = any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
    return len(text) >= _RUN and mixed and _bits(text) > _RANDOM


def _bits(text: str) -> float:
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
