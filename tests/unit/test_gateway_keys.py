"""Keys: how they are made, and what makes a bad one."""

from __future__ import annotations

import random
import re

import pytest

from agentd.core.gateway import keys


def test_a_key_is_made_from_all_of_its_bytes() -> None:
    made = keys.make(bytes(range(32)))
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", made)
    assert made != keys.make(bytes(range(1, 33)))
    with pytest.raises(ValueError, match="32 bytes"):
        keys.make(b"short")


def test_made_keys_are_good() -> None:
    source = random.Random(7)
    for _ in range(2000):
        key = keys.make(source.randbytes(keys.RANDOM))
        assert keys.strength(key) == keys.strength(key, prefix="") == ""


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "empty"),
        ("sk-1234", "everybody knows"),
        ("sandbox-key", "everybody knows"),
        ("sk-abc", "only 6 characters"),
        ("x" * 43, 'does not begin with "sk-"'),
        ("sk-" + "a" * 40, "too few different"),
        ("sk-" + "ab" * 20, "too few different"),
        ("sk-abcdefghijklmnopqrstuvwxyz0123456789", "too few different"),
        ("sk-0123456789012345678901234567890", "too few different"),
        ("sk-schlüssel-schlüssel-schlüssel", "a header cannot carry"),
        ("sk-one two three four five six", "a header cannot carry"),
    ],
)
def test_bad_keys(key: str, words: str) -> None:
    problem = keys.strength(key)
    assert words in problem
    assert not key or key not in problem


def test_a_key_of_a_server_may_begin_with_anything() -> None:
    assert keys.strength("9f8e2c71d0ab4356e1927384fa05bcd6", prefix="") == ""
    assert "only 9" in keys.strength("token-abc", prefix="")
