"""CONFIG REWRITE of a real redis-server does the harm that was foretold, and none that was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from redisconfs import Conf

from agentd.core.redis_conf import effective
from agentd.core.redis_conf_edit import persist_hazards
from agentd.core.redis_directives import DEFAULTS
from agentd.core.redis_edits import rewritten
from agentd.core.redis_lines import parse

NAMES = tuple(name for name in DEFAULTS if name != "dir")
LAST_COUNTS = 'save would become "60 10000": of the lines that a rewrite makes, only the last counts'


def rewrite(conf: Conf, arguments: Sequence[str] = ()) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """(values before a rewrite, values after it and a new start, what was foretold)."""
    before = conf.ask(NAMES, arguments)
    assert before is not None
    told = persist_hazards(conf.tree(), conf.argv(arguments), before, 0.0)
    lines = parse(conf.text, str(conf.path))
    assert conf.ask(NAMES, arguments, rewrite=True) == before
    foretold = [(line.name, line.args) for line in rewritten(lines, before)]
    for name in NAMES:
        written = [line.args for line in parse(conf.text, str(conf.path)) if line.name == name]
        assert written == [args for said, args in foretold if said == name]
    after = conf.ask(NAMES, arguments)
    assert after is not None
    return before, after, told


HARMLESS: list[tuple[str, Mapping[str, str], Sequence[str]]] = [
    ("", {}, ()),
    ("save 900 1 300 10\nsave 5 5\nappendonly no\nappendonly yes\nAPPENDFSYNC no\n", {}, ()),
    ('save ""\n', {}, ()),
    ("save 9 1\ninclude a\n", {"a": "appendfsync always\n"}, ()),
    ("save 9 1\nappendonly yes\ninclude none*\n", {}, ()),
    ("save 9 1\ninclude a\nappendonly yes\n", {"a": "appendonly no\n"}, ()),
    ("save 9 1\nsave 8 2\nsave 7 3\n", {}, ("--save", "6 1")),
    ("", {}, ("--appendonly", "yes", "--save", "")),
]


@pytest.mark.parametrize(("text", "files", "arguments"), HARMLESS)
def test_no_harm(tmp_path: Path, text: str, files: Mapping[str, str], arguments: Sequence[str]) -> None:
    conf = Conf(tmp_path, text, files)
    before, after, told = rewrite(conf, arguments)
    decided = {
        name for name, setting in effective(conf.tree(), conf.argv(arguments), NAMES).values.items() if setting.argument
    }
    assert told == ()
    assert {n: v for n, v in after.items() if n not in decided} == {n: v for n, v in before.items() if n not in decided}


HARM: list[tuple[str, Mapping[str, str], Mapping[str, str], str]] = [
    ("include none*\n", {}, {"save": "60 10000"}, LAST_COUNTS),
    ("include a\nappendonly yes\n", {"a": "#\n"}, {"save": "60 10000"}, LAST_COUNTS),
    ("save 3600 1 300 100 60 10000\ninclude a\n", {"a": "#\n"}, {"save": "60 10000"}, LAST_COUNTS),
    ("save 9 1\ninclude a\n", {"a": "save 8 1\n"}, {"save": "8 1"}, LAST_COUNTS.replace("60 10000", "8 1")),
]


@pytest.mark.parametrize(("text", "files", "changed", "sentence"), HARM)
def test_harm_to_save_points(
    tmp_path: Path, text: str, files: Mapping[str, str], changed: Mapping[str, str], sentence: str
) -> None:
    before, after, told = rewrite(Conf(tmp_path, text, files))
    assert told == (sentence,)
    assert after == {**before, **changed}


def test_an_include_beats_what_is_rewritten(tmp_path: Path) -> None:
    """The server runs with `appendonly yes`, brought by CONFIG SET: the main file says so, and the include still no."""
    conf = Conf(tmp_path, "save 9 1\nappendonly no\ninclude a\n", {"a": "appendonly no\n"})
    running = {"appendonly": "yes", "save": "9 1"}
    told = persist_hazards(conf.tree(), conf.argv(()), running, 0.0)
    assert told == (f'{conf.folder}/a:1 would still say appendonly "no": a rewrite changes no included file',)
    assert conf.ask(NAMES, set_first={"appendonly": "yes"}, rewrite=True) is not None
    assert "appendonly yes\n" in conf.text
    assert (conf.ask(["appendonly"]) or {}) == {"appendonly": "no"}


def test_passwords_are_copied_out_of_included_files(tmp_path: Path) -> None:
    conf = Conf(tmp_path, "save 9 1\ninclude a\n", {"a": "masterauth s3cr3t\n"})
    _, _, told = rewrite(conf)
    assert told == (f"{conf.folder}/a holds passwords, and a rewrite copies them to {conf.path}",)
    assert 'masterauth "s3cr3t"' in conf.text
