"""The smallest edit of redis.conf, and what a CONFIG REWRITE would spoil."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.core.redis_conf import effective
from agentd.core.redis_conf_edit import Edit, edit, persist_hazards
from agentd.core.redis_edits import COMMENT
from agentd.stores import ConfFile, ConfTree

MAIN = "/etc/redis/redis.conf"
ARGV = ("/usr/bin/redis-server", MAIN)
YES = {"appendonly": "yes"}
POINTS = "3600 1 300 100"


def tree(text: str | None, included: Mapping[str, str | None] | None = None) -> ConfTree:
    files = [
        ConfFile(path, text, "" if text is not None else "permission denied") for path, text in (included or {}).items()
    ]
    main = ConfFile(MAIN, text, "" if text is not None else "permission denied")
    return ConfTree((main, *files), {file.path: (file.path,) for file in files})


def edited(
    text: str, wanted: Mapping[str, str], included: Mapping[str, str | None] | None = None, *arguments: str
) -> Edit:
    """The edit, which has to stand: a second one changes nothing."""
    made = edit(tree(text, included), (*ARGV, *arguments), wanted)
    new = text if made.text is None else made.text
    again = edit(tree(new, included), (*ARGV, *arguments), wanted)
    assert again == Edit(None, (), made.impossible)
    return made


def test_nothing_to_do() -> None:
    assert edited("appendonly YES\nsave 300 100 3600 1\n", {**YES, "save": POINTS, "appendfsync": "everysec"}) == Edit(
        None
    )


@pytest.mark.parametrize(
    ("text", "new", "change"),
    [
        ("# a\n\nappendonly no\nport 1\n", "# a\n\nappendonly yes\nport 1\n", "line 3: appendonly no -> yes"),
        ('  AppendOnly\t"no"  \r\nport 1\r\n', "  AppendOnly\tyes  \r\nport 1\r\n", "line 1: appendonly no -> yes"),
        ("appendonly no", "appendonly yes", "line 1: appendonly no -> yes"),
        ("appendonly yes\nappendonly no\n", "appendonly yes\nappendonly yes\n", "line 2: appendonly no -> yes"),
        ("appendonly\n", "appendonly yes\n", "line 1: appendonly (what the server refuses) -> yes"),
        ("appendonly no s3cret\n", "appendonly yes\n", "line 1: appendonly (what the server refuses) -> yes"),
        ("", f"{COMMENT}\nappendonly yes\n", "added at the end: appendonly yes"),
        ("port 1\n\n", f"port 1\n\n{COMMENT}\nappendonly yes\n", "added at the end: appendonly yes"),
        ("a 1\r\nb 2", f"a 1\r\nb 2\r\n{COMMENT}\r\nappendonly yes", "added at the end: appendonly yes"),
    ],
)
def test_one_line(text: str, new: str, change: str) -> None:
    assert edited(text, YES) == Edit(new, (change,))


def test_a_line_below_an_include_that_says_no() -> None:
    no = {"/a": "appendonly no\n"}
    made = edited("appendonly yes\ninclude /a\n", YES, no)
    assert made == Edit(
        f"appendonly yes\ninclude /a\n{COMMENT}\nappendonly yes\n", ("added at the end: appendonly yes",)
    )
    assert edited("include /a\nappendonly no\n", YES, no).text == "include /a\nappendonly yes\n"


def test_also_where_an_include_cannot_be_read() -> None:
    text = "appendonly yes\nsave 3600 1 300 100\ninclude /a\n"
    wanted = {**YES, "save": POINTS, "appendfsync": "everysec"}
    made = edited(text, wanted, {"/a": None})
    added = ("appendonly yes", "save 3600 1 300 100", "appendfsync everysec")
    assert made.text == text + "\n".join([COMMENT, *added, ""])
    assert made.changes == tuple(f"added at the end: {line}" for line in added)
    assert made.impossible == ()


def test_our_lines_do_not_pile_up() -> None:
    ours = f"port 1\n{COMMENT}\nappendonly yes\n"
    assert edited(ours, {**YES, "appendfsync": "no"}).text == ours + "appendfsync no\n"
    assert edited(ours.replace("yes", "no"), YES).text == ours
    assert edited(ours + "\n\n", {"appendfsync": "no"}).text == ours + "appendfsync no\n\n\n"
    no = {"/a": "appendonly no\n"}
    moved = edited(f"{ours}\ninclude /a\n", YES, no)
    assert moved.text == f"port 1\n\ninclude /a\n{COMMENT}\nappendonly yes\n"
    assert moved.changes == ("line 3: appendonly yes removed", "added at the end: appendonly yes")
    both = edited(f"{ours}appendfsync no\n# x\ninclude /a\n", YES, no)
    assert both.text == f"port 1\n{COMMENT}\nappendfsync no\n# x\ninclude /a\n{COMMENT}\nappendonly yes\n"


@pytest.mark.parametrize(
    ("text", "new", "changes"),
    [
        ("save 9 1\n", "save 3600 1 300 100\n", ["line 1: save 9 1 -> 3600 1 300 100"]),
        ('save ""\nx 1\n', "save 3600 1 300 100\nx 1\n", ['line 1: save "" -> 3600 1 300 100']),
        ("save\n", "save 3600 1 300 100\n", ['line 1: save "" -> 3600 1 300 100']),
        (
            "save 9 1\n# x\nsave 8 1\nx 1\nsave 7 1",
            "# x\nx 1\nsave 3600 1 300 100",
            ["line 5: save 7 1 -> 3600 1 300 100", "line 1: save 9 1 removed", "line 3: save 8 1 removed"],
        ),
        (
            'save 9 1\nsave ""\nsave 8 1\n',
            'save 9 1\nsave ""\nsave 3600 1 300 100\n',
            ["line 3: save 8 1 -> 3600 1 300 100"],
        ),
    ],
)
def test_save_points(text: str, new: str, changes: list[str]) -> None:
    assert edited(text, {"save": POINTS}) == Edit(new, tuple(changes))


def test_save_points_beside_includes() -> None:
    some = {"/a": "save 1 1\n"}
    assert edited("include /a\nsave 9 1\n", {"save": POINTS}, some).text == "include /a\nsave 3600 1 300 100\n"
    after = edited("save 9 1\ninclude /a\n", {"save": POINTS}, some)
    assert after.text == f"save 9 1\ninclude /a\n{COMMENT}\nsave 3600 1 300 100\n"
    assert edited("save 9 1\ninclude /a\n", {"save": ""}, some).text == f'save 9 1\ninclude /a\n{COMMENT}\nsave ""\n'
    assert edited("save 9 1\ninclude /a\n", {"save": "1 1"}, some).text is not None


def test_the_command_line_wins() -> None:
    made = edited("appendonly no\nappendfsync no\n", {**YES, "appendfsync": "always"}, None, "--appendonly", "no")
    assert made.text == "appendonly no\nappendfsync always\n"
    assert made.impossible == (
        'appendonly: the unit\'s ExecStart= says "--appendonly no", which wins over the file: take it out there',
    )
    (sentence,) = edited("", {"save": POINTS}, None, "--save", "").impossible
    assert sentence.startswith('save: the unit\'s ExecStart= says "--save """')
    (sentence,) = edited("", YES, {"/a": "appendonly no\n"}, "--include", "/a").impossible
    assert sentence == "appendonly: /a:1 decides, which the unit's ExecStart= includes: change it there"
    (sentence,) = edited("", YES, {"/a": None}, "--include", "/a").impossible
    assert "includes a file that cannot be read" in sentence


def test_the_command_line_may_add_what_is_wanted() -> None:
    assert edited("save 9 1\n", {"save": "9 1 8 1"}, None, "--save", "8", "1") == Edit(None)
    assert edited("save 7 1\n", {"save": "8 1"}, None, "--save", "8", "1").impossible != ()


def test_no_file() -> None:
    assert edit(ConfTree(), (), YES).impossible == ("there is no configuration file, so it cannot be edited",)
    assert edit(tree(None), (), YES) == Edit(None, (), (f"{MAIN}: permission denied, so it cannot be edited",))


@pytest.mark.parametrize(("name", "value"), [("appendonly", "maybe"), ("save", "9"), ("requirepass", "s3cret")])
def test_wishes_that_are_none(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} cannot be ") as caught:
        edit(tree(""), (), {name: value})
    assert "s3cret" not in str(caught.value)


def test_other_bytes_stay() -> None:
    text = '# caf\udce9\nappendfilename "\udce9"\nappendonly no\n'
    assert edited(text, YES).text == text.replace("no\n", "yes\n")


LINES = st.sampled_from(
    [
        "save 1 1",
        'save ""',
        "save",
        "include /a",
        "appendonly no",
        "appendonly yes",
        "# x",
        "",
        COMMENT,
        "requirepass s3cret",
    ]
)
TEXTS = st.builds(lambda lines, end: "\n".join(lines) + end, st.lists(LINES, max_size=7), st.sampled_from(["", "\n"]))


@settings(max_examples=300, deadline=None)
@given(
    TEXTS,
    st.sampled_from(["", "save 2 2\n", "appendonly no\nsave 2 2\nsave 3 3", None]),
    st.sampled_from(["", "9 1", POINTS]),
)
def test_any_file(text: str, included: str | None, save: str) -> None:
    others = {"/a": included}
    made = edited(text, {**YES, "save": save}, others)
    new = text if made.text is None else made.text
    found = effective(tree(new, others), ARGV, ["appendonly", "save"])
    assert {name: setting.value for name, setting in found.values.items()} == {**YES, "save": save}
    assert made.impossible == ()
    assert "s3cret" not in "".join(made.changes)
    assert [line for line in new.splitlines() if _kept(line)] == [line for line in text.splitlines() if _kept(line)]
    assert new.count(COMMENT) <= text.count(COMMENT) + 1


def _kept(line: str) -> bool:
    return not line.startswith(("save", "appendonly", "# agentd"))


# -- what a rewrite would spoil ---------------------------------------------------------------------------------------
RUNNING = {"appendonly": "yes", "save": POINTS, "dir": "/var/lib/redis"}


def hazards(
    main: ConfFile, *others: ConfFile, started: float = 1000.0, arguments: tuple[str, ...] = ()
) -> tuple[str, ...]:
    conf = ConfTree((main, *others), {file.path: (file.path,) for file in others})
    return persist_hazards(conf, (*ARGV, *arguments), RUNNING, started)


def test_a_plain_file_is_safe() -> None:
    assert hazards(ConfFile(MAIN, "appendonly no\nsave 9 1\n", mtime=999.0, mode=0o640)) == ()
    assert hazards(ConfFile(MAIN, "requirepass x\n", mode=0o644)) == ()
    assert hazards(ConfFile(MAIN, "requirepass x\n")) == ()
    assert hazards(ConfFile(MAIN, ""), arguments=("--appendonly", "no")) == ()
    assert persist_hazards(ConfTree(), (), RUNNING, 0.0) == ()
    assert hazards(ConfFile(MAIN, None)) == ()


@pytest.mark.parametrize(
    ("main", "sentence"),
    [
        (ConfFile(MAIN, "", link="/srv/r.conf"), f"{MAIN} is a symbolic link: a rewrite puts a file in its place"),
        (ConfFile(MAIN, "", mounted=True), f"{MAIN} is a mount point"),
        (ConfFile(MAIN, "", mtime=1001.0), f"{MAIN} was changed after the server's start"),
        (
            ConfFile(MAIN, "user agentd on >s3cret\n", mode=0o640),
            f"{MAIN} holds passwords, and after a rewrite everybody",
        ),
        (ConfFile(MAIN, "REQUIREPASS s3cret\n", mode=0o600), f"{MAIN} holds passwords, and after a rewrite everybody"),
    ],
)
def test_a_file_that_is_not(main: ConfFile, sentence: str) -> None:
    (found,) = hazards(main)
    assert found.startswith(sentence)
    assert "s3cret" not in found


@pytest.mark.parametrize(
    ("text", "other", "sentence"),
    [
        ("include /a\n", ConfFile("/a", ""), 'save would become "300 100": of the lines that a rewrite makes, only'),
        (
            'save ""\nsave ""\nappendonly no\ninclude /a\n',
            ConfFile("/a", "appendonly no\n"),
            '/a:1 would still say appendonly "no": a',
        ),
        (
            'save ""\nsave ""\nappendonly no\ninclude /a\n',
            ConfFile("/a", None),
            "what is included after appendonly cannot",
        ),
        (
            'save ""\nsave ""\ninclude /a\n',
            ConfFile("/a", "masterauth x\n"),
            "/a holds passwords, and a rewrite copies them",
        ),
        ('save ""\nsave ""\ninclude /a\n', ConfFile("/a", "", mtime=1001.0), "/a was changed after the server's start"),
    ],
)
def test_an_include_in_its_way(text: str, other: ConfFile, sentence: str) -> None:
    assert any(found.startswith(sentence) for found in hazards(ConfFile(MAIN, text), other))


def test_an_unknown_start_is_no_hazard() -> None:
    assert hazards(ConfFile(MAIN, "", mtime=1001.0), started=0.0) == ()
