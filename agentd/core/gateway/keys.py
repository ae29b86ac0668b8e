"""Keys of the gateway and of the servers behind it: made from random bytes, and judged by what they look like."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from itertools import pairwise

RANDOM = 32
"""Bytes that a key is made from."""
PREFIX = "sk-"
SHORTEST = 20
"""Characters, the prefix included."""
BITS = 60.0
"""Least entropy by the frequency of the characters; a random key of 20 characters has more than 70."""
PREVIOUS = "AGENTD_PREVIOUS_KEY"
"""The variable with the key before a rotation, which the gateway accepts beside the new one while it is there."""
KNOWN = frozenset(
    {
        # What LiteLLM refuses to start with (its documentation's example), and other examples people copy.
        "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        *(
            hashlib.sha256(key.encode()).hexdigest()
            for key in (
                *("sk-1234", "sk-12345", "sk-123456", "sk-master", "sk-litellm", "sk-test", "sk-local", "sk-key"),
                *("sk-litellm-master-key", "sk-your-master-key", "sk-your-litellm-master-key", "sk-anything"),
                *("sk-xxxxxxxxxxxxxxxxxxxxxxxx", "sk-1234567890abcdef1234567890abcdef", "sk-proj-your-api-key"),
                *("token-abc123", "sandbox-key", "EMPTY", "dummy", "none", "changeme", "change-me", "password"),
            )
        ),
    }
)
"""SHA-256 of keys that everybody knows."""


def make(random: bytes) -> str:
    """ "sk-" and 43 url-safe characters. Raises ValueError unless there are `RANDOM` bytes."""
    if len(random) != RANDOM:
        raise ValueError(f"a key is made from {RANDOM} bytes")
    return PREFIX + base64.urlsafe_b64encode(random).rstrip(b"=").decode()


def strength(key: str, *, prefix: str = PREFIX) -> str:
    """What is wrong with a key, in words that never hold it; "" for a good one. `prefix` "" for a key of a server
    behind the gateway, which may begin with anything."""
    if not key:
        return "it is empty"
    if hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest() in KNOWN:
        return "it is an example that everybody knows"
    if not key.isascii() or not key.isprintable() or " " in key:
        return "it has characters that a header cannot carry"
    if prefix and not key.startswith(prefix):
        return f'it does not begin with "{prefix}", which LiteLLM\'s clients expect'
    if len(key) < SHORTEST:
        return f"it has only {len(key)} characters; a safe one has at least {SHORTEST}"
    if entropy(key.removeprefix(prefix)) < BITS:
        return "it has too few different characters to be random"
    return ""


def entropy(text: str) -> float:
    """Bits, by how often each character comes, and by whether they only count up or repeat: an upper bound of what a
    guesser has to try."""
    steps = Counter(ord(b) - ord(a) for a, b in pairwise(text))
    return min(_bits(Counter(text)), _bits(steps) + 7)


def _bits(counts: Counter[str] | Counter[int]) -> float:
    total = sum(counts.values())
    return -sum(count * math.log2(count / total) for count in counts.values()) if total else 0.0
