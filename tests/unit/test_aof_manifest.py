"""The manifest of an append-only directory, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.core.aof_manifest import Manifest, parse_manifest, render_manifest

BASE = "file appendonly.aof.3.base.rdb seq 3 type b\n"
ONE = "file appendonly.aof.4.incr.aof seq 4 type i\n"
TWO = "file appendonly.aof.5.incr.aof seq 5 type i\n"
OLD = "file appendonly.aof.2.base.rdb seq 2 type h\n"


def test_a_usual_one() -> None:
    assert parse_manifest(BASE + OLD + ONE + TWO) == Manifest(
        "appendonly.aof.3.base.rdb",
        ("appendonly.aof.4.incr.aof", "appendonly.aof.5.incr.aof"),
        ("appendonly.aof.2.base.rdb",),
    )


def test_comments_other_keys_and_quotes() -> None:
    text = '# so\nFILE "a b.1.base.rdb" seq 1 more "or less" type base\n'
    assert parse_manifest(text) == Manifest("a b.1.base.rdb", (), ())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the manifest is empty"),
        (BASE + "\n", "line 2 of the manifest is not made of at least three keys and their values"),
        (BASE + ONE[:-1], "line 2 of the manifest does not end in a newline"),
        (BASE + 'file "x\n', "line 2 of the manifest has unbalanced quotes"),
        (BASE + BASE, "line 2 of the manifest names a second base file"),
        (TWO + ONE, "line 2 of the manifest has sequence 4 after 5"),
        (BASE.replace("file ", "file ../"), "line 1 of the manifest names a file in another directory"),
        (BASE.replace("type b", "type c"), "line 1 of the manifest has an unknown type"),
        (BASE.replace("seq 3", "seq x"), "line 1 of the manifest lacks its file, its seq or its type"),
        (BASE.replace("type b", "kind b"), "line 1 of the manifest lacks its file, its seq or its type"),
        ("file a seq 1 type b x " + "y" * 1024 + "\n", "line 1 of the manifest is longer than 1024 bytes"),
    ],
)
def test_what_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        parse_manifest(text)


def test_it_is_written_as_redis_does() -> None:
    assert render_manifest("appendonly.aof.3.base.rdb", ["appendonly.aof.4.incr.aof"]) == BASE + ONE
    assert render_manifest("a b.1.base.rdb") == 'file "a b.1.base.rdb" seq 1 type b\n'
    assert render_manifest("old.aof", ["x", "y"]) == (
        "file old.aof seq 1 type b\nfile x seq 1 type i\nfile y seq 2 type i\n"
    )
    assert render_manifest("", ["appendonly.aof.4.incr.aof"]) == ONE


@pytest.mark.parametrize(("base", "increments"), [("a/b", ()), ("a", ("x.2.incr.aof", "x.1.incr.aof")), ("", ())])
def test_what_cannot_be_read_back_is_not_written(base: str, increments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="manifest"):
        render_manifest(base, increments)


NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(NAME, st.integers(1, 9), st.integers(0, 3))
def test_any_name_comes_back(name: str, first: int, count: int) -> None:
    increments = tuple(f"{name}.{first + number}.incr.aof" for number in range(count))
    base = f"{name}.{first}.base.rdb"
    assert parse_manifest(render_manifest(base, increments)) == Manifest(base, increments, ())
