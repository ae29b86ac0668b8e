"""Layers: merging, masking, where each value came from, and files that cannot be read."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.adapters.config_files import load
from agentd.core.fragments import parse_fragment
from agentd.core.layers import Fragment, Origin, format_key, merge, origin_of
from agentd.core.toml_lines import find_lines
from agentd.errors import ConfigError

VALUES = st.recursive(
    st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
TABLES = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


def overlay(low: Any, high: Any) -> Any:
    """The definition of a merge, as short as can be."""
    if not (isinstance(low, dict) and isinstance(high, dict)):
        return high
    return low | {key: overlay(low.get(key), value) for key, value in high.items()}


def paths_of(table: dict[str, Any], at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = set()
    for key, value in table.items():
        found |= {(*at, key)} | (paths_of(value, (*at, key)) if isinstance(value, dict) else set())
    return found


def lookup(table: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(table, dict) or key not in table:
            return None
        table = table[key]
    return table


@settings(max_examples=50, deadline=None)
@given(st.lists(TABLES, max_size=4))
def test_merge(tables: list[dict[str, Any]]) -> None:
    merged = merge(Fragment(str(number), table) for number, table in enumerate(tables))
    expected: dict[str, Any] = {}
    for table in tables:
        expected = overlay(expected, table)
    assert merged.data == expected
    assert merged.provenance.keys() == paths_of(expected)
    for path, origin in merged.provenance.items():
        value = lookup(tables[int(origin.file)], path)
        assert value is not None
        assert isinstance(value, dict) or value == lookup(expected, path)
        assert all(lookup(later, path) is None for later in tables[int(origin.file) + 1 :])


def test_origin_of_something_unwritten_is_its_table() -> None:
    provenance = {("a",): Origin("x", 1), ("a", "b"): Origin("x", 2)}
    assert origin_of(provenance, ("a", "b", "c")) == Origin("x", 2)
    assert origin_of(provenance, ("z",)) is None


def test_keys_are_quoted_where_toml_wants_it() -> None:
    assert format_key(("services", "qwen2.5", "model")) == 'services."qwen2.5".model'
    assert format_key(("a b", "")) == '"a b".""'


DOCUMENT = '''# [not.a.table]
top = 1 # x = 1
"quoted key".'lit.eral' = "# no comment"
multi = """
[nor.this]
key = 1
\\"""still in it"""""
literal = \'\'\'
it = 'is'
\'\'\'

  [ a . "b.c" ]   # comment = 1
list = [ # one
  "]", 'x = [',
  [1, 2], { k = "}" },
]
inline = { x = 1, y.z = [ "a", { b = 2 } ], "q\\u0041" = {} }
when = 1979-05-27 07:32:00
[a]
last = true
[[tables]]
inside = 1
[tables.sub]
deep = 1
[[tables]]
[end]
'''


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lines_of_a_tricky_document(ending: str) -> None:
    text = DOCUMENT.replace("\n", ending)
    lines = find_lines(text, tomllib.loads(text))
    assert {format_key(path): line for path, line in lines.items()} == {
        "top": 2,
        '"quoted key"': 3,
        '"quoted key"."lit.eral"': 3,
        "multi": 4,
        "literal": 8,
        "a": 12,
        'a."b.c"': 12,
        'a."b.c".list': 13,
        'a."b.c".inline': 17,
        'a."b.c".inline.x': 17,
        'a."b.c".inline.y': 17,
        'a."b.c".inline.y.z': 17,
        'a."b.c".inline.qA': 17,
        'a."b.c".when': 18,
        "a.last": 20,
        "tables": 21,
        "end": 26,
    }


def test_lines_are_not_guessed() -> None:
    assert find_lines("a = 1\n", {"a": 1, "b": 2}) == {}


WRITTEN = st.sampled_from(
    [
        "1",
        "-0.5e3",
        "true",
        '"x"',
        '"[a]"',
        "'#'",
        '"""\n[t]\nk = 1\n"""',
        "'''\n'q' = 1'''",
        "[1, 2]",
        "[\n  'a', # ]\n  \"]\",\n]",
        "{ a = 1, b = { c = [{}] } }",
        "1979-05-27 07:32:00Z",
        '"\\"\\\\"',
        '""',
        '""""a"""',
    ]
)
GAPS = st.sampled_from(["", "\n", "  # k = [\n", "\n\n", "\t\n"])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), GAPS, WRITTEN), max_size=12))
def test_lines_of_any_document(statements: list[tuple[bool, str, str]]) -> None:
    text, table, expected = "", "", {}
    for number, (new_table, gap, value) in enumerate(statements):
        text += gap
        if new_table:
            table = f"t{number}"
            expected[(table,)] = text.count("\n") + 1
            text += f"[{table}]\n"
        key = f"k{number}"
        expected[(table, key) if table else (key,)] = text.count("\n") + 1
        text += f"{key} = {value}\n"
    lines = find_lines(text, tomllib.loads(text))
    assert bool(lines) == bool(statements)
    assert {path: lines.get(path) for path in expected} == expected


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    """Three layers, like packaged, /etc and the user's."""
    directories = [tmp_path / name for name in ("low", "mid", "high")]
    for directory in directories:
        (directory / "config.d").mkdir(parents=True)
    return directories


def write(layer: Path, name: str, resync: int, extra: str = "") -> None:
    (layer / name).write_text(f"[daemon]\nresync = {resync}\n{extra}")


def files_of(layers: list[Path]) -> list[str]:
    root = str(layers[0].parent)
    return [os.path.relpath(file, root) for file in load(layers).files]


def test_later_layers_win(layers: list[Path]) -> None:
    low, mid, high = layers
    write(high, "agentd.toml", 3)
    write(mid, "config.d/50-a.toml", 2, 'log_level = "debug"\n')
    write(mid, "config.d/10-b.toml", 9, 'log_level = "error"\nlisten = ""\n')
    write(low, "agentd.toml", 1, "event_history = 7\n")
    loaded = load(layers)
    daemon = loaded.settings.daemon
    assert (daemon.resync, daemon.log_level, daemon.listen, daemon.event_history) == (3.0, "debug", "", 7)
    assert {format_key(path): str(origin) for path, origin in loaded.provenance.items()} == {
        "daemon": f"{high}/agentd.toml:1",
        "daemon.resync": f"{high}/agentd.toml:2",
        "daemon.log_level": f"{mid}/config.d/50-a.toml:3",
        "daemon.listen": f"{mid}/config.d/10-b.toml:4",
        "daemon.event_history": f"{low}/agentd.toml:3",
    }
    assert files_of(layers) == [
        "low/agentd.toml",
        "mid/config.d/10-b.toml",
        "mid/config.d/50-a.toml",
        "high/agentd.toml",
    ]


def test_only_toml_files_count(layers: list[Path]) -> None:
    for name in (".hidden.toml", "a.toml~", "a.toml.dpkg-new", "README"):
        (layers[0] / "config.d" / name).write_text("not toml")
    assert load(layers).files == ()


def test_same_name_replaces(layers: list[Path]) -> None:
    low, mid, _ = layers
    write(low, "config.d/10-a.toml", 1, "event_history = 7\n")
    write(mid, "config.d/10-a.toml", 2)
    assert load(layers).settings.daemon.event_history == 10000
    assert files_of(layers) == ["mid/config.d/10-a.toml"]


def test_the_main_file_does_not_replace(layers: list[Path]) -> None:
    low, mid, _ = layers
    write(low, "agentd.toml", 1)
    (mid / "agentd.toml").write_text("")
    assert load(layers).settings.daemon.resync == 1.0


@pytest.mark.parametrize("how", ["null", "empty"])
def test_masking(layers: list[Path], how: str) -> None:
    low, mid, high = layers
    write(low, "config.d/10-a.toml", 1)
    write(high, "config.d/20-b.toml", 2)
    mask = mid / "config.d/10-a.toml"
    if how == "null":
        mask.symlink_to("/dev/null")
    else:
        mask.touch()
    assert files_of(layers) == ["high/config.d/20-b.toml"]


def test_a_mask_hides_even_a_broken_file(layers: list[Path]) -> None:
    (layers[0] / "config.d/10-a.toml").write_text("broken")
    (layers[1] / "config.d/10-a.toml").symlink_to("/dev/null")
    assert load(layers).files == ()


def test_links_are_followed(layers: list[Path], tmp_path: Path) -> None:
    write(tmp_path, "elsewhere.toml", 5)
    (layers[0] / "config.d/a.toml").symlink_to(tmp_path / "elsewhere.toml")
    assert load(layers).settings.daemon.resync == 5.0


def problems_of(layers: list[Path], **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(layers, **options)
    return [str(problem).replace(f"{layers[0].parent}/", "") for problem in caught.value.problems]


def test_unreadable_things_are_listed_together(layers: list[Path]) -> None:
    low, mid, high = layers
    (low / "config.d/a.toml").symlink_to("/nonexistent/target")
    (low / "config.d/b.toml").mkdir()
    os.mkfifo(low / "config.d/c.toml")
    (low / "config.d/d.toml").write_bytes(b"#" * (1024 * 1024 + 1))
    (mid / "config.d/e.toml").symlink_to("e.toml")
    (high / "agentd.toml").write_text("[")
    assert problems_of(layers) == [
        "low/config.d/a.toml: cannot read it: no such file or directory",
        "low/config.d/b.toml: cannot read it: is a directory",
        "low/config.d/c.toml: cannot read it: not a regular file",
        "low/config.d/d.toml: cannot read it: larger than 1M",
        "mid/config.d/e.toml: cannot read it: too many levels of symbolic links",
        "high/agentd.toml:1: not valid TOML: invalid initial character for a key part, at the end of the file",
    ]


def test_permission_denied_is_told(layers: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the kernel's answer is put in by hand."""
    write(layers[0], "agentd.toml", 1)

    def denied(path: Any, *_: Any) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", denied)
    assert problems_of(layers) == ["low/agentd.toml: cannot read it: permission denied"]


def test_a_directory_that_was_named_must_exist(layers: list[Path]) -> None:
    missing = layers[0].parent / "missing"
    assert problems_of([layers[0], missing], required=missing) == [
        "missing: cannot read the configuration: no such directory"
    ]
    missing.touch()
    assert problems_of([layers[0], missing], required=missing) == [
        "missing: cannot read the configuration: is not a directory"
    ]


def test_layers_that_do_not_exist_are_empty(tmp_path: Path) -> None:
    assert load([tmp_path / "a", tmp_path / "b"]).files == ()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet="a=.[]{}\"'#\n 1,\\", max_size=30).map(str.encode))
def test_any_bytes_are_a_fragment_or_a_problem(content: bytes) -> None:
    parsed = parse_fragment("x.toml", content)
    if isinstance(parsed, Fragment):
        # A valid document always gets its lines.
        assert bool(parsed.lines) == bool(parsed.data)
    else:
        assert str(parsed).startswith("x.toml")
        assert "\n" not in str(parsed)
