"""Unit files as systemd reads them: lines, continuation, sections; and several files put together."""

from __future__ import annotations

from string import ascii_letters, ascii_uppercase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.core.specifiers import complete, expand, unescape
from agentd.core.unitfile import Directive, Setting, merge, parse, words
from agentd.evidence import HostEvidence
from agentd.types import Scope

S = "[Service]\n"
BRIEFLY = settings(max_examples=60, deadline=None)


def pairs(text: str) -> list[tuple[str, str, int]]:
    return [(d.key, d.value, d.line) for d in parse(text).directives]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (S + "A=1", [("A", "1", 2)]),
        (S + "  A = 1 \t\n", [("A", "1", 2)]),
        (S + "A=1=2", [("A", "1=2", 2)]),
        (S + "A=\n", [("A", "", 2)]),
        (S + "# A=1\n ;B=2\nC=3", [("C", "3", 4)]),
        (S + "A=1 # no comment", [("A", "1 # no comment", 2)]),
        (S + "A=1 \\\n  2\nB=3", [("A", "1  2", 2), ("B", "3", 4)]),
        (S + "A=1 \\\n# in between\n; and this\n2", [("A", "1  2", 2)]),
        (S + "A=1 \\\n\nB=2", [("A", "1", 2), ("B", "2", 4)]),
        (S + "A=1\\\\\nB=2", [("A", "1\\\\", 2), ("B", "2", 3)]),
        (S + "A=1\\", [("A", "1", 2)]),
        (S + "A=1\r\nB=2\r\n", [("A", "1", 2), ("B", "2", 3)]),
        ("\ufeff" + S + "A=1", [("A", "1", 2)]),
        (S + "A=x\u2028y\x0bz", [("A", "x\u2028y\x0bz", 2)]),
        ("", []),
        ("\0", []),
    ],
)
def test_lines(text: str, found: list[tuple[str, str, int]]) -> None:
    assert pairs(text) == found
    assert parse(text).problems == ()


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("A=1\n[Service]\n", 1, "outside of a section"),
        (S + "A", 2, 'no "="'),
        (S + "=1", 2, "no name"),
        (S + "A=1\n[Un\nB=2", 3, "the rest of the file is ignored"),
        (S + "[]\n", 2, "no section header"),
    ],
)
def test_what_systemd_passes_over_is_told(text: str, line: int, word: str) -> None:
    (problem,) = parse(text, "/x.conf").problems
    assert (problem.path, problem.line) == ("/x.conf", line)
    assert word in problem.text


def test_nothing_is_read_after_a_broken_header() -> None:
    assert pairs(S + "A=1\n[Un\nB=2") == [("A", "1", 2)]


NAMES = st.builds("".join, st.tuples(st.sampled_from(ascii_uppercase), st.text(ascii_letters, max_size=12)))
VALUES = st.text(st.characters(exclude_characters="\n\r\0\\", codec="utf-8"), max_size=30).map(
    lambda text: text.strip(" \t")
)


@BRIEFLY
@given(st.lists(st.tuples(NAMES, NAMES, VALUES), max_size=12))
def test_what_is_written_is_read_back(rows: list[tuple[str, str, str]]) -> None:
    text = "".join(f"[{section}]\n{key}={value}\n" for section, key, value in rows)
    parsed = parse(text, "/f")
    assert [(d.section, d.key, d.value) for d in parsed.directives] == rows
    assert [d.line for d in parsed.directives] == [2 * n for n in range(1, len(rows) + 1)]
    assert parsed.problems == ()


@BRIEFLY
@given(st.text())
def test_reading_never_fails_and_every_line_is_accounted_for(text: str) -> None:
    parsed = parse(S + text)
    lines = [d.line for d in parsed.directives]
    assert lines == sorted(lines)
    assert all(d.key and d.section and "\n" not in d.value for d in parsed.directives)
    merge([("/a", text), ("/b", S + text)])
    words(text)
    expand(text, "a@b.service", HostEvidence())
    unescape(text)


@BRIEFLY
@given(st.lists(st.sampled_from(["ReadWritePaths=/a", "ReadWritePaths=/b", "ReadWritePaths=", "Nice=1", "Nice="])))
def test_merging_keeps_or_loses_every_line(lines: list[str]) -> None:
    merged = merge([("/f", S + "\n".join(lines))])
    kept = [d for s in merged.values() for d in (*s.where, *s.lost)]
    resets = [s.reset for s in merged.values() if s.reset is not None]
    assert {d.line for d in kept} | {d.line for d in resets} <= set(range(2, len(lines) + 2))
    assert sum(bool(line.partition("=")[2]) for line in lines) == sum(bool(d.value) for d in kept)


A, B = ("/10-a.conf", S), ("/20-b.conf", S)


def merged(*lines: tuple[tuple[str, str], str]) -> dict[tuple[str, str], Setting]:
    return merge([(path, head + text) for (path, head), text in lines])


def test_of_a_scalar_the_last_one_wins_and_the_others_are_named() -> None:
    setting = merged((A, "Nice=1\nNice=2"), (B, "Nice=3"))["Service", "Nice"]
    assert (setting.values, setting.text, setting.place) == (("3",), "3", "/20-b.conf:2")
    assert [d.place for d in setting.lost] == ["/10-a.conf:2", "/10-a.conf:3"]


def test_a_list_adds_up_and_an_empty_line_empties_it() -> None:
    setting = merged((A, "ReadWritePaths=/a\nReadWritePaths=/b"), (B, "ReadWritePaths=/c"))["Service", "ReadWritePaths"]
    assert setting.values == ("/a", "/b", "/c")
    assert (setting.lost, setting.reset) == ((), None)
    setting = merged((A, "ReadWritePaths=/a"), (B, "ReadWritePaths=\nReadWritePaths=/c"))["Service", "ReadWritePaths"]
    assert setting.values == ("/c",)
    assert [d.place for d in setting.lost] == ["/10-a.conf:2"]
    assert setting.reset == Directive("Service", "ReadWritePaths", "", "/20-b.conf", 2)


def test_an_emptied_list_is_there_with_its_place() -> None:
    setting = merged((A, "CapabilityBoundingSet="))["Service", "CapabilityBoundingSet"]
    assert setting.values == ()
    assert setting.place == "/10-a.conf:2"


def test_an_old_name_is_the_new_one() -> None:
    assert merged((A, "ReadOnlyDirectories=/a"), (B, "ReadOnlyPaths=/b"))["Service", "ReadOnlyPaths"].values == (
        "/a",
        "/b",
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a  b\tc", ("a", "b", "c")),
        ('"a b" c', ("a b", "c")),
        ("'a \"b' c\\ d", ('a "b', "c d")),
        ('x"y z"', ("xy z",)),
        ('""', ("",)),
        ('"open', ("open",)),
        ("", ()),
    ],
)
def test_words(text: str, found: tuple[str, ...]) -> None:
    assert words(text) == found


USER = HostEvidence(
    scope=Scope.USER, systemd=252, uid=1000, home="/home/ai", runtime_dir="/run/user/1000", kernel="6.1"
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("%h/x", "/home/ai/x"),
        ("-%t/bus", "-/run/user/1000/bus"),
        ("%S/x", "/home/ai/.config/x"),
        ("%C %E %L", "/home/ai/.cache /home/ai/.config /home/ai/.config/log"),
        ("%n %N %p %i %j", "vllm-q@a-b.service vllm-q@a-b vllm-q a-b q"),
        ("%I %P %f", "a/b vllm/q /a/b"),
        ("%U %v 100%%", "1000 6.1 100%"),
        ("%d", "/run/user/1000/credentials/vllm-q@a-b.service"),
        ("%H %m", "%H %m"),
        ("50%", "50%"),
    ],
)
def test_specifiers_of_a_user_unit(text: str, found: str) -> None:
    assert expand(text, "vllm-q@a-b.service", USER) == found


def test_specifiers_of_the_system_and_of_newer_versions() -> None:
    system = HostEvidence(scope=Scope.SYSTEM, systemd=257, home="/root")
    assert expand("%t %S %C %L %E %h %u", "a.service", system) == "/run /var/lib /var/cache /var/log /etc /root root"
    newer = HostEvidence(scope=Scope.USER, systemd=257, uid=1, home="/h", runtime_dir="/run/user/1")
    assert expand("%S %L", "a.service", newer) == "/h/.local/state /h/.local/state/log"
    assert complete("%h/%%", "a.service", newer)
    assert not complete("%H", "a.service", newer)
    assert unescape(r"a-b\x2dc") == "a/b-c"
