"""redis.conf: its lines, its words, and what it comes to. The real server is asked in tests/contract."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.core.redis_args import command_line, quote, split, written
from agentd.core.redis_conf import Setting, effective, parse
from agentd.core.redis_directives import DEFAULTS, normal
from agentd.stores import ConfFile, ConfTree

MAIN = "/etc/redis/redis.conf"
SERVER = "/usr/bin/redis-server"


def tree(text: str | None, included: Mapping[str, str | None] | None = None, **globs: tuple[str, ...]) -> ConfTree:
    """`included`: argument (also the path) -> text, None when it cannot be read; `globs`: those of patterns."""
    others = included or {}
    files = [ConfFile(MAIN, text, "" if text is not None else "permission denied")]
    files += [ConfFile(path, text, "" if text is not None else "permission denied") for path, text in others.items()]
    return ConfTree(tuple(files), {**{path: (path,) for path in others}, **globs})


def get(text: str, name: str, included: Mapping[str, str | None] | None = None, *arguments: str) -> Setting:
    argv = (SERVER, MAIN, *arguments) if arguments else ()
    return effective(tree(text, included), argv, [name]).values[name]


# -- words and lines --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("a \"b c\" 'd e'", ["a", "b c", "d e"]),
        ("a x\"y z\" u'v w'", ["a", "xy z", "uv w"]),
        (r'"\x41\n\t\r\b\a\"\\\q\xg1"', ['A\n\t\r\b\a"\\qxg1']),
        (r"'\x41 \'\n'", ["\\x41 '\\n"]),
        (r'"\xc3\xa4\xff"', ["ä\udcff"]),
        ("a\\ b", ["a\\", "b"]),
        ("a\vb \vc", ["a\vb", "c"]),
        ("\"\" ''", ["", ""]),
        ("", []),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    found = split(line)
    assert found is not None
    assert [word.text for word in found] == words


@pytest.mark.parametrize("line", ['"', "'a", 'a"b', '"a"b', "'a'b", "'a\\'", '"a\\"', "''''", "it's"])
def test_unbalanced_quotes(line: str) -> None:
    assert split(line) is None


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=12), st.sampled_from([quote, written]))
def test_what_is_quoted_is_read_back(text: str, way: object) -> None:
    line = f"x {quote(text) if way is quote else written(text)} y"
    found = split(line)
    assert found is not None
    assert [word.text for word in found] == ["x", text, "y"]
    assert line[found[1].start : found[1].end] == line[2:-2]


def test_lines() -> None:
    text = "# a\r\n\n  Save 900 1 \r\nsave\nappendonly \"no\nit's"
    lines = parse(text, "f")
    assert "".join(line.raw for line in lines) == text
    assert [(line.number, line.name, line.args, line.problem) for line in lines] == [
        (1, "", (), ""),
        (2, "", (), ""),
        (3, "save", ("900", "1"), ""),
        (4, "save", (), ""),
        (5, "", (), "unbalanced quotes"),
        (6, "", (), "unbalanced quotes"),
    ]
    assert [line.raw[slice(*line.span)] for line in lines[2:4]] == ["900 1", ""]
    assert lines[2].source == "f:3"


def test_a_line_that_cannot_be_a_directive() -> None:
    lines = parse("'' x\n--appendonly yes\na\0\n# \0\n", "f")
    assert [line.problem for line in lines[:2]] == ["no directive has such a name"] * 2
    assert [line.problem for line in lines[2:]] == ["a NUL byte, which joins the line to the next one"] * 2


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_lines(text: str) -> None:
    assert "".join(line.raw for line in parse(text, "f")) == text


# -- what it comes to -------------------------------------------------------------------------------------------------
def test_nothing_said() -> None:
    found = effective(tree(""), (), [*DEFAULTS, "maxmemory", "requirepass"])
    assert {name: setting.value for name, setting in found.values.items()} == DEFAULTS
    assert {setting.source for setting in found.values.values()} == {"default"}
    assert found.problems == ()
    assert effective(ConfTree(), (), ["appendonly"]).values == {"appendonly": Setting("no", "default")}


def test_the_last_line_wins() -> None:
    setting = get("appendonly yes\nappendonly NO\nAPPENDONLY Yes\n", "appendonly")
    assert setting == Setting("yes", f"{MAIN}:3", overridden=(f"{MAIN}:1", f"{MAIN}:2"))


def test_an_include_stands_where_it_is_named() -> None:
    others = {"/a": "appendonly no\ninclude /b\n", "/b": "appendfsync always\n"}
    assert get("appendonly yes\ninclude /a\n", "appendonly", others).source == "/a:1"
    assert get("include /a\nappendonly yes\n", "appendonly", others).source == f"{MAIN}:2"
    assert get("include /a\nappendfsync no\ninclude /a\n", "appendfsync", others).value == "always"


def test_the_command_line_comes_last() -> None:
    setting = get("appendonly yes\n", "appendonly", None, "--appendonly", "no")
    assert setting == Setting("no", "ExecStart=", True, (f"{MAIN}:1",))


@pytest.mark.parametrize(
    ("text", "value", "source"),
    [
        ("save 900 1\nsave 300 10\n", "900 1 300 10", 2),
        ('save 900 1\nsave ""\n', "", 2),
        ('save 900 1\nsave ""\nsave 300 10\n', "300 10", 3),
        ("save 900 1\nsave\n", "900 1", 1),
        ("include /a\nsave 900 1\nsave 300 10\n", "300 10", 3),
        ("save 900 1\ninclude /a\n", "900 1 1 1 2 2", 0),
        ("include /none\nsave 4 4\ninclude /a\n", "1 1 2 2", 0),
    ],
)
def test_save_points_add_up_until_an_include(text: str, value: str, source: int) -> None:
    """After one, each line replaces what was said before: that is how Redis 7 does it."""
    found = effective(tree(text, {"/a": "save 1 1\nsave 2 2\n", "/none": ""}), (), ["save"]).values["save"]
    assert (found.value, found.source) == (value, f"{MAIN}:{source}" if source else "/a:2")


def test_save_points_of_the_command_line() -> None:
    assert get("save 9 1\n", "save", None, "--save", "8", "1") == Setting("9 1 8 1", "ExecStart=", True)
    assert get("include /a\nsave 9 1\n", "save", {"/a": ""}, "--save", "8 1").value == "8 1"
    assert get("save 9 1\n", "save", None, "--save", "") == Setting("", "ExecStart=", True, (f"{MAIN}:1",))


def test_directories_add_up() -> None:
    assert get("dir /srv\ndir redis\n", "dir").value == "/srv/redis"
    assert get("dir /srv\ndir /data\n", "dir").value == "/data"


def test_an_unknown_directive_is_told_as_written() -> None:
    assert get("maxmemory 77mb\noom-score-adj-values 0 200 800\n", "oom-score-adj-values").value == "0 200 800"
    assert get("maxmemory 77mb\n", "maxmemory").value == "77mb"


def test_files_of_a_pattern_run_into_each_other() -> None:
    others = {"/1": "appendonly", "/2": " yes\nsave 1 1", "/3": "", "/4": " 2 2\nappendfsync no\n"}
    found = effective(tree("include /*\n", others, **{"/*": tuple(others)}), (), ["appendonly", "save", "appendfsync"])
    assert {name: (setting.value, setting.source) for name, setting in found.values.items()} == {
        "appendonly": ("yes", "/1:1"),
        "save": ("1 1 2 2", "/2:2"),
        "appendfsync": ("no", "/4:2"),
    }
    assert found.problems == ()


# -- what is not known, or refused ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\nappendonly maybe\n", f"{MAIN}:2: appendonly cannot be 'maybe'"),
        ("appendonly yes # x\n", f"{MAIN}:1: appendonly needs one value"),
        ("save 900\n", f"{MAIN}:1: save needs pairs of seconds and changes"),
        ("include a b\n", f"{MAIN}:1: include needs one path"),
        ("requirepass 's3cret\n", f"{MAIN}:1: unbalanced quotes"),
        ("include /secret\n", f"{MAIN}:1: include: /secret: permission denied"),
        ("include /other\n", f"{MAIN}:1: include: /other was not looked at"),
        ("include /loop\n", "/loop:1: include: /loop2 includes the file that it stands in, and the server would read"),
        (f"include {MAIN}\n", f"{MAIN}:1: include: {MAIN} was not looked at"),
        ("include /many\n", f"{MAIN}:501: include: more than 1000 includes"),
    ],
)
def test_problems(text: str, problem: str) -> None:
    others = {"/secret": None, "/loop": "include /loop2\n", "/loop2": "", "/empty": "", "/many": "\ninclude /empty\n"}
    several = tree(text * (600 if "many" in text else 1), others, **{"/loop2": ("/loop",)})
    (found, *_) = effective(several, (), ["appendonly"]).problems
    assert found.startswith(problem)
    assert "s3cret" not in found


def test_a_main_file_that_cannot_be_read() -> None:
    found = effective(tree(None), (SERVER, MAIN, "--appendonly", "yes"), ["appendonly"])
    assert found.problems == (f"{MAIN}: permission denied",)
    assert found.values["appendonly"].value == "yes"


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ((SERVER, MAIN, "--port", "0"), ""),
        ((SERVER, "redis.conf"), ""),
        ((SERVER, "/etc/redis/../redis/redis.conf"), ""),
        (("/usr/bin/nice", "-n", "5", SERVER, MAIN), ""),
        (("/opt/redis7", MAIN, "--logfile", "/var/log/redis server"), ""),
        ((SERVER, MAIN, "--logfile", "/a$$HOME"), ""),
        ((SERVER, "/other.conf"), f"ExecStart= starts the server with /other.conf, and not with {MAIN}"),
        ((SERVER, "--port", "0"), f"ExecStart= starts the server without a configuration file, and not with {MAIN}"),
        ((SERVER, MAIN, "$OPTIONS"), "ExecStart= takes arguments from environment variables, and their values are"),
        ((SERVER, MAIN, "--port", "${PORT}"), "ExecStart= takes arguments from environment variables, and their"),
        (("/bin/sh", "-c", f"exec {SERVER} {MAIN}"), "ExecStart= starts the server by a shell, so its own arguments"),
        ((SERVER, MAIN, "-"), "ExecStart= has the server read configuration from its standard input, too"),
        ((SERVER, MAIN, "--sentinel"), "ExecStart= starts a sentinel (--sentinel), which keeps no data"),
        ((SERVER, MAIN, "--include", "/x"), "ExecStart=: include: /x was not looked at"),
        ((SERVER, MAIN, "--appendonly=yes"), "ExecStart=: no directive has such a name"),
        ((SERVER, MAIN, "--appendonly", "yes", "no"), "ExecStart=: appendonly needs one value"),
    ],
)
def test_problems_of_the_command_line(argv: tuple[str, ...], problem: str) -> None:
    found = effective(tree(""), argv, ["appendonly"]).problems
    assert len(found) == bool(problem)
    assert "".join(found).startswith(problem)


def test_a_file_that_was_not_read() -> None:
    assert effective(ConfTree(), (SERVER, "/x.conf"), []).problems == (
        "ExecStart= starts the server with /x.conf, and it was not read",
    )


def test_secrets_stay_out() -> None:
    text = "requirepass s3cret\nuser agentd on >s3cret\nmasterauth s3cret\nrename-command CONFIG s3cret\nappendonly x\n"
    names = ("requirepass", "user", "masterauth", "rename-command", "appendonly")
    found = effective(tree(text), (SERVER, MAIN, "--requirepass", "s3cret", "--save", "s3cret="), names)
    assert set(found.values) == {"appendonly"}
    assert "s3cret" not in repr(parse(text, MAIN)) + "".join(found.problems).replace("save", "")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--port", "6380"], 'port "6380" '),
        (["--port 6380", "--appendonly", "a b"], 'port 6380 \nappendonly "a b" '),
        (["--save", "--port", "1"], 'save ""\nport "1" '),
        (["--SAVE"], 'SAVE ""'),
        (["--save", ""], 'save "" '),
        (["--save "], "save  "),
        (["--logfile", "--x", "--port", "1"], 'logfile "--x" \nport "1" '),
        (["--sentinel", "--port", "1"], 'sentinel \nport "1" '),
        (["x", "-"], '"x" '),
        (["--", "ä"], ' "\\xc3\\xa4" '),
    ],
)
def test_lines_of_the_command_line(words: list[str], text: str) -> None:
    assert command_line([SERVER, MAIN, *words]).text == text


def test_nothing_is_said_by_no_command_line() -> None:
    assert command_line([]) == command_line([SERVER])
    assert command_line([SERVER, "-", "--port", "1"]).text == 'port "1" '


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("auto-aof-rewrite-min-size", "64mb", "67108864"),
        ("auto-aof-rewrite-min-size", "1K", "1000"),
        ("auto-aof-rewrite-min-size", "1tb", None),
        ("auto-aof-rewrite-percentage", "007", None),
        ("appendonly", "YES", "yes"),
        ("save", " 900  1 ", "900 1"),
        ("save", "900", None),
        ("appendfilename", "a/b", None),
        ("maxmemory", "77mb", "77mb"),
    ],
)
def test_values(name: str, value: str, shown: str | None) -> None:
    assert normal(name, value) == shown
