"""Environment files as systemd reads them, and edits that leave the rest alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.gateway.client_file import split
from agentd.core.gateway.env_text import assignments, parse, with_values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1", {"A": "1"}),
        ("", {}),
        ("A=\n", {"A": ""}),
        ("  A = b c  \n", {"A": "b c"}),
        ("# A=1\n;B=2\nC=3\n", {"C": "3"}),
        ("A=1 # no comment\n", {"A": "1 # no comment"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A='one two'\n", {"A": "one two"}),
        ('A="a\\"b\\$c\\`d\\\\e\\f"\n', {"A": 'a"b$c`d\\e\\f'}),
        ("A='a\\b'\n", {"A": "a\\b"}),
        ('A="x"y\n', {"A": "xy"}),
        ('A="x" "y"\n', {"A": "xy"}),
        ('A=x"y"\n', {"A": 'x"y"'}),
        ("A='x y' \n", {"A": "x y"}),
        ("A=a\\\nb\n", {"A": "ab"}),
        ("A=a\\ \n", {"A": "a "}),
        ("A=a\\\\\n", {"A": "a\\"}),
        ('A="two\nlines"\nB=1\n', {"A": "two\nlines", "B": "1"}),
        ('A="open\nB=1', {"A": "open\nB=1"}),
        ("no assignment\nA=1\n", {"A": "1"}),
        ("1A=x\nA-B=y\nA=1\n", {"A": "1"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("export A=1\nB=2\n", {"B": "2"}),
        ("# a comment \\\nA=1\nB=2\n", {"B": "2"}),
        ("A=sk-a=b\n", {"A": "sk-a=b"}),
    ],
)
def test_reads_as_systemd_does(text: str, expected: dict[str, str]) -> None:
    assert parse(text) == expected


def test_a_shells_export_counts_when_asked_for() -> None:
    assert parse("export A=1\nexport  B='2 3'\nexport=4\n", exported=True) == {"A": "1", "B": "2 3", "export": "4"}


def test_an_edit_keeps_everything_else() -> None:
    text = '# keys\n  A = "old one"  \r\n\n;x\nexport B=old\nA=older\nC=1'
    assert with_values(text, {"A": "new", "B": "x y", "D": "4", "E": None}) == (
        '# keys\n  A = new  \r\n\n;x\nexport B="x y"\nA=new\nC=1\nD=4\n'
    )


def test_a_value_over_several_lines_is_replaced_whole() -> None:
    assert with_values('A="1\n2" \nB=1\n', {"A": "x"}) == "A=x \nB=1\n"
    assert with_values("A=1\\\n2\nB=1\n", {"A": "x"}) == "A=x\nB=1\n"
    assert with_values("A=\nB=1", {"A": "x"}) == "A=x\nB=1"


def test_taking_a_name_out_takes_its_lines() -> None:
    assert with_values("# c\nA=1\nB=2\nA=3", {"A": None}) == "# c\nB=2\n"
    assert with_values('A="1\n2"\nB=2\n', {"A": None}) == "B=2\n"
    assert with_values("B=2\n", {"A": None}) == "B=2\n"


@pytest.mark.parametrize("value", ["two\nlines", "a\x00b", "tab\there"])
def test_what_cannot_be_written_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(ValueError, match="the value of A has characters") as caught:
        with_values("", {"A": value})
    assert value not in str(caught.value)
    with pytest.raises(ValueError, match="is not a name"):
        with_values("", {"A B": "1"})


def test_a_value_is_not_in_a_repr() -> None:
    assert "geheim" not in repr(assignments("A=geheim\n"))


NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,3}", fullmatch=True)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=("C", "Z")), max_size=12)
TEXT = st.text(st.sampled_from(list("AB=# ;'\"\\$`\n\r\tx-")), max_size=60)


@given(st.dictionaries(NAMES, PRINTABLE | st.just(" a b "), max_size=5))
def test_what_is_written_is_read_back(values: dict[str, str]) -> None:
    assert parse(with_values("", values)) == values


@given(TEXT, NAMES, PRINTABLE)
def test_any_text_keeps_its_other_values(text: str, name: str, value: str) -> None:
    before = parse(text)
    try:
        after = parse(with_values(text, {name: value}))
    except ValueError:
        ended = text if text.endswith(("\n", "\r")) else text + "\n"
        assert "NEW_9" not in parse(ended + "NEW_9=1\n"), "what is open at the end takes in what is appended"
        return
    assert after == before | {name: value}
    assert parse(with_values(text, {name: None})) == {k: v for k, v in before.items() if k != name}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("/a/b.env", ("/a/b.env", "KEY")),
        ("/a/b.env:OPENAI_API_KEY", ("/a/b.env", "OPENAI_API_KEY")),
        ("/a/b:c.env", ("/a/b:c.env", "KEY")),
        (":NAME", (":NAME", "KEY")),
    ],
)
def test_entries_of_clients(entry: str, expected: tuple[str, str]) -> None:
    assert split(entry, "KEY") == expected
