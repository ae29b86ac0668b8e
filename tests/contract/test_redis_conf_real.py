"""What the pure reader makes of a configuration is what a real redis-server makes of it, before and after an edit."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redisconfs import Conf, write

from agentd.core.redis_conf import effective
from agentd.core.redis_conf_edit import edit
from agentd.core.redis_directives import DEFAULTS

NAMES = tuple(name for name in DEFAULTS if name != "dir")
WANTED = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "3600 1 300 100 60 10000",
    "aof-use-rdb-preamble": "yes",
    "aof-load-truncated": "yes",
    "no-appendfsync-on-rewrite": "no",
    "stop-writes-on-bgsave-error": "yes",
    "auto-aof-rewrite-percentage": "100",
    "auto-aof-rewrite-min-size": "67108864",
}
SAVES = "save 1 1\nsave 2 2\n"
NO = "appendonly no\n"
Case = tuple[str, Mapping[str, str], Sequence[str]]

CASES: list[Case] = [
    *((text, {}, ()) for text in ("", "save 900 1\n", "save 900 1 300 10\n", "save 900 1\nsave 300 10\n")),
    *(
        (f"save {text}\n", {}, ())
        for text in ('"900 1 300 10"', "''", '""', "", "900", "0 1", "+9 007", "' 9' 1", "9 ''")
    ),
    *(
        (f"save {text}\n", {}, ())
        for text in ("900 1 #x", '"" ""', "' '", "'900  1'", "'900 \"1'", "9 1 '3 1'", "9 -1")
    ),
    *((f"save {text}\n", {}, ()) for text in ("900 99999999999", "99999999999999999999 1", "1 2147483648", "x 1")),
    *(
        (text, {}, ())
        for text in ('save 9 1\nsave ""\n', 'save ""\nsave 9 1\n', "save 9 1\nsave\n", "save\nsave 9 1\n")
    ),
    *(
        (f"appendonly {text}\n", {}, ())
        for text in ("YES", "'yes'", "y'es'", '"\\x79es"', "'\\x79es'", "true", '""', "")
    ),
    *(
        (f"appendonly {text}\n", {}, ())
        for text in ("yes no", "yes # x", "yes\r", 'yes"', '"yes"x', '"yes', "ye\\s", '"yes\\n"')
    ),
    *(
        (text, {}, ())
        for text in ("APPENDONLY yes", ' \t"appendonly"\tyes \r\n', "appendonly\vyes\n", "appendonly yes\v\n")
    ),
    *(
        (text, {}, ())
        for text in ("appendonly yes\rappendfsync no\n", "# x\n\n # y '\n", "''\n", "\v\n", "appendonly yes\\\n")
    ),
    *(
        (f"auto-aof-rewrite-min-size {text}\n", {}, ())
        for text in ("64MB", "1k", "1kb", "2g", "9b", "mb", '""', "007mb")
    ),
    *((f"auto-aof-rewrite-min-size {text}\n", {}, ()) for text in ("-1", "+5", "1.5mb", "1tb", "64 mb", "10%")),
    *(
        (f"auto-aof-rewrite-min-size {text}\n", {}, ())
        for text in (str(2**63 - 1), str(2**63), str(2**64), f"{2**63}kb", f"{2**54}kb")
    ),
    *(
        (f"auto-aof-rewrite-percentage {text}\n", {}, ())
        for text in ("0", "50", "+5", "-1", "007", "0x1", str(2**31), '""')
    ),
    *((f"appendfsync {text}\n", {}, ()) for text in ("ALWAYS", "No", "sometimes")),
    *(
        (f"appendfilename {text}\n", {}, ())
        for text in ('"a b.aof"', "a/b", '""', '"\\xc3\\xa4"', "ä.aof", "'a\\'b'", "a\\b")
    ),
    ("appendonly no\nappendonly yes\nappendfsync no\nappendonly NO\n", {}, ()),
    *((text, {"a": SAVES}, ()) for text in ("include a\n", "include a\nsave 9 1\n", "save 9 1\ninclude a\n")),
    *(
        (text, {"a": SAVES}, ())
        for text in ("include a\nsave 9 1\nsave 3 1\n", "save 9 1\ninclude a\nsave 4 4\ninclude a\n")
    ),
    *(
        (text, {"a": SAVES, "b": "#\n"}, ())
        for text in ("include b\nsave 4 4\ninclude a\n", "include b\nsave\n", "include a\nsave")
    ),
    *(
        (text, {}, ())
        for text in ("include none*\nsave 9 1\nsave 4 4\n", "include none\n", "include\n", "include ''\n")
    ),
    ("include a\n", {"a": "include b\nappendonly yes\nsave 3 3\nsave 4 4\n", "b": "save 1 1"}, ()),
    ("save 5 5\ninclude a\nsave 9 9\n", {"a": "save 6 6\n include b\nsave 3 3\nsave 4 4", "b": "save 1 1"}, ()),
    ("appendonly yes\ninclude a\n", {"a": NO}, ()),
    ("include a\nappendonly yes\n", {"a": NO}, ()),
    ("include 'a b'\nINCLUDE \"./b\"\n", {"a b": "appendonly yes", "b": "appendfsync no"}, ()),
    ("include a b\n", {"a": "", "b": ""}, ()),
    ("include g*\n", {"g1": "appendonly", "g2": " yes\nsave 1 1", "g3": "", "g4": " 2 2\nsave 3 3\n"}, ()),
    ("include g*\nsave 4 4\nsave 5 5", {"g1": "# no newline", "g2": "appendonly yes\n", "g3": "\nsave 1 1\n"}, ()),
    ("include g[12]\nsave 4 4", {"g1": NO, "g2": "appendonly yes\n", "g3": NO}, ()),
    *(("save 9 1\n", {}, words) for words in (("--save", "3", "1"), ("--save", ""), ("--save",), ("--SAVE",))),
    *(("save 9 1\n", {}, words) for words in (("--save", "--appendonly", "yes"), ("--save", "", "--save", "5", "6"))),
    *(
        ("", {}, words)
        for words in (("--save", "5 6"), ("--save 5 6",), ("--save 5 6", "--save", "7", "8"), ("--save ",))
    ),
    *(
        ("", {}, words)
        for words in (("--save ", "--appendonly", "yes"), ("--save '",), ('--save ""', "--appendonly", "yes"))
    ),
    *(
        ("", {}, words)
        for words in (("--appendonly", "YES"), ("--appendonly=yes",), ("--APPENDONLY yes",), ("-appendonly", "yes"))
    ),
    *(
        ("", {}, words)
        for words in (("--appendfilename", "a b"), ("--appendfilename", "--x"), ("--appendonly", "yes", "no"))
    ),
    *(
        ("", {}, words)
        for words in (("--",), ("--#x", "y"), ("-", "--appendonly", "yes"), ("--appendonly yes\nsave 3 3",))
    ),
    ("include b\n", {"a": SAVES, "b": ""}, ("--save", "5", "6", "--save", "7", "8")),
    ("appendonly yes\n", {"a": NO}, ("--include", "a", "--save", "1", "1", "--save", "2", "2")),
]


def check(conf: Conf, arguments: Sequence[str], wanted: Mapping[str, str]) -> None:
    argv = conf.argv(arguments)
    real = conf.ask(NAMES, arguments)
    found = effective(conf.tree(), argv, NAMES)
    assert bool(found.problems) == (real is None), found.problems
    if real is None:
        return
    assert {name: setting.value for name, setting in found.values.items()} == real
    made = edit(conf.tree(), argv, wanted)
    refused = {sentence.split(":")[0] for sentence in made.impossible}
    assert all(found.values[name].argument for name in refused)
    if made.text is None:
        assert made.changes == ()
    else:
        write(conf.path, made.text)
    after = conf.ask(NAMES, arguments)
    assert after is not None
    right = {name for name in NAMES if same(name, after[name], wanted.get(name, real[name]))}
    assert set(NAMES) - right == refused
    again = edit(conf.tree(), argv, wanted)
    assert (again.text, again.changes, len(again.impossible)) == (None, (), len(refused))


def same(name: str, one: str, other: str) -> bool:
    """Save points are the same in any order."""
    if name != "save":
        return one == other
    return sorted(zip(*[iter(one.split())] * 2, strict=True)) == sorted(zip(*[iter(other.split())] * 2, strict=True))


@pytest.mark.parametrize(("text", "files", "arguments"), CASES)
def test_as_the_server_reads_it(tmp_path: Path, text: str, files: Mapping[str, str], arguments: Sequence[str]) -> None:
    check(Conf(tmp_path, text, files), arguments, WANTED)


@pytest.mark.parametrize("save", ["", "900 1", "5 5 1 1", "1 1 2 2"])
@pytest.mark.parametrize(
    "text", ["save 9 1\nsave 8 1\ninclude a\n", "include a\nsave 1 1\n", "save 7 7", "", 'save ""\n']
)
def test_any_save_points_can_be_had(tmp_path: Path, text: str, save: str) -> None:
    conf = Conf(tmp_path, text, {"a": SAVES})
    check(conf, (), {"save": save})


def test_the_directory_moves_with_every_line(tmp_path: Path) -> None:
    conf = Conf(tmp_path, "dir x\ndir ./y\n", {"x/1": "", "x/y/1": ""})
    real = conf.ask(["dir"], ["--dir", ".."])
    setting = effective(conf.tree(), conf.argv(["--dir", ".."]), ["dir"]).values["dir"]
    assert real == {"dir": str((conf.folder / setting.value).resolve())} == {"dir": str(conf.folder / "x")}
    assert (setting.value, setting.source) == ("./x/./y/..", "ExecStart=")


# -- generated ones ---------------------------------------------------------------------------------------------------
PAIR = st.tuples(st.integers(1, 99), st.integers(0, 99)).map(lambda pair: f"{pair[0]} {pair[1]}")
SAVE = st.sampled_from(['""', "''", "", "900", '"9 1 8 2"']) | st.lists(PAIR, min_size=1, max_size=3).map(" ".join)
YES_NO = st.sampled_from(["yes", "no", "YES", '"no"', "'yes'"])
FILE = st.sampled_from(["x.aof", '"y z"', "'q.aof'"])
VALUES: dict[str, st.SearchStrategy[str]] = {
    **{name: YES_NO for name, value in DEFAULTS.items() if value in ("yes", "no")},
    "save": SAVE,
    "appendfsync": st.sampled_from(["always", "no", "EverySec", "never"]),
    "auto-aof-rewrite-percentage": st.integers(-1, 300).map(str),
    "auto-aof-rewrite-min-size": st.sampled_from(["64mb", "1k", "2GB", "0", "mb", "1tb"]),
    "appendfilename": FILE,
    "dbfilename": st.just("d.rdb"),
    "appenddirname": st.just("aofs"),
}
BLANK = st.sampled_from([" ", "\t", "  "])
NOTHING = st.sampled_from(["", "# no 'x", "  # y", "\t"])
USUAL = ["save"] * 6 + ["appendonly"] * 3 + sorted(VALUES)


@st.composite
def directives(draw: st.DrawFn, includes: Sequence[str]) -> str:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(NOTHING)
    if kind < 3 and includes:
        return f"include {draw(st.sampled_from(includes))}"
    name = draw(st.sampled_from(USUAL))
    shown = draw(st.sampled_from([name, name.upper(), f'"{name}"', f" {name}"]))
    return f"{shown}{draw(BLANK)}{draw(VALUES[name])}{draw(st.sampled_from(['', ' ']))}"


def texts(most: int, includes: Sequence[str] = ()) -> st.SearchStrategy[str]:
    lines = st.lists(directives(includes), max_size=most)
    ending = st.sampled_from(["\n", "\r\n"])
    return st.builds(
        lambda lines, ending, last: ending.join([*lines, *last]), lines, ending, st.sampled_from([[], [""]])
    )


@st.composite
def options(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(USUAL))
    value = draw(VALUES[name]).strip("\"'")
    forms = [[f"--{name}", value], [f"--{name} {value}"]]
    if name == "save":
        forms += [["--save", *value.split()], ["--save"], ["--include", "a"], ["--include", "g*"]]
    return draw(st.sampled_from(forms))


FILES = st.fixed_dictionaries(
    {"a": texts(4, ["b", "g*", "none*"]), "b": texts(3), "g1": texts(2, ["b"]), "g2": texts(3)}
)
ARGUMENTS = st.lists(options(), max_size=2).map(lambda found: [word for words in found for word in words])
WISHES = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.just(value) for name, value in WANTED.items()},
        "save": st.lists(PAIR, max_size=3).map(" ".join),
    },
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts(8, ["a", "b", "g*", "none*", "'a'"]), FILES, ARGUMENTS, WISHES)
def test_any_configuration(
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    files: dict[str, str],
    arguments: list[str],
    wanted: dict[str, str],
) -> None:
    check(Conf(tmp_path_factory.getbasetemp(), text, files), arguments, wanted)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=string.ascii_letters + "\"'\\ x0f\t\v\x7fä", max_size=12))
def test_any_quoting(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """`dbfilename` takes nearly every text that is one word."""
    check(Conf(tmp_path_factory.getbasetemp(), f"dbfilename {text}\n"), (), {})
