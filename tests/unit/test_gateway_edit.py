"""Edits of the sources: the wanted value changes, every other byte stays."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentd.core.gateway.edit import add_entry, remove_entry, set_status, set_value
from agentd.core.gateway.yaml_text import dump, parse
from agentd.errors import AgentdError

ROOT = Path(__file__).resolve().parents[2]
TEXT = """\
# head
providers:
  # the big one
  qwen:
    kind: vllm    # on the GPU
    port: qwen
    # status: disabled

  ollama: {kind: local, api: ollama, port: ollama}  # always
  far: {
    kind: local,
    base_url: "http://x/v1",  # there
  }
  empty:
  none: {}
# tail
"""


def edited(path: str, value: object, text: str = TEXT) -> str:
    return set_value(text, "providers.yaml", path.split("."), value)


def common(one: str, other: str) -> int:
    """Length of the common beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def parts(before: str, after: str) -> tuple[str, str]:
    """(what went, what came): the texts without their common beginning and end."""
    start = common(before, after)
    end = common(before[start:][::-1], after[start:][::-1])
    return before[start : len(before) - end], after[start : len(after) - end]


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        ("providers.qwen.kind", "local", "vllm    # on the GPU", "local    # on the GPU"),
        ("providers.qwen.status", "disabled", "    port: qwen\n", "    port: qwen\n    status: disabled\n"),
        ("providers.ollama.api", "ollama_chat", "api: ollama,", "api: ollama_chat,"),
        ("providers.ollama.key", "A_KEY", "port: ollama}", "port: ollama, key: A_KEY}"),
        ("providers.far.key", "K", 'x/v1",  # there', 'x/v1", key: K  # there'),
        ("providers.empty", "x", "empty:\n", "empty: x\n"),
        ("providers.empty.kind", "local", "empty:\n", "empty:\n    kind: local\n"),
        ("providers.none.kind", "local", "none: {}", "none: {kind: local}"),
        ("providers.new", "x", "none: {}\n", "none: {}\n  new: x\n"),
        ("other", 1, "none: {}\n", "none: {}\nother: 1\n"),
        ("providers.qwen.port", "a: b #c", "port: qwen\n", 'port: "a: b #c"\n'),
        ("providers.qwen.params", {"a": [1, "b,c"]}, "port: qwen\n", 'port: qwen\n    params: {a: [1, "b,c"]}\n'),
        ("providers.ollama", {"kind": "cloud"}, "{kind: local, api: ollama, port: ollama}", "{kind: cloud}"),
        ("providers.qwen.kind", None, "vllm ", "null "),
    ],
)
def test_set_value(path: str, value: object, old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    assert edited(path, value) == TEXT.replace(old, new)


def test_a_block_becomes_one_value() -> None:
    text = "a: 1\nb:  # why\n  c: 1\n  d: 2\n# tail\ne: 3\n"
    assert edited("b", 7, text) == "a: 1\nb: 7\n# tail\ne: 3\n"


def test_lists() -> None:
    text = "models:\n  a:\n    fallbacks: [b, c]  # in this order\n    aliases:\n      - x\n      - y\n"
    assert edited("models.a.fallbacks.1", "d", text) == text.replace("c]", "d]")
    assert edited("models.a.aliases.0", "z", text) == text.replace("- x", "- z")
    assert edited("models.a.fallbacks", ["d"], text) == text.replace("[b, c]", "[d]")
    with pytest.raises(AgentdError, match=r"cannot set models\.a\.aliases\.2 in .*: the list has 2 entries"):
        edited("models.a.aliases.2", "z", text)


def test_status() -> None:
    once = set_status(TEXT, "providers.yaml", "providers", "qwen", "disabled")
    assert once == TEXT.replace("    port: qwen\n", "    port: qwen\n    status: disabled\n")
    twice = set_status(once, "providers.yaml", "providers", "qwen", "enabled")
    assert twice == once.replace("    status: disabled\n", "    status: enabled\n")
    for section, name, status, said in [
        ("providers", "qwn", "enabled", r"cannot find providers\.qwn in providers\.yaml"),
        ("models", "m", "enabled", r"cannot find models in providers\.yaml"),
        ("providers", "qwen", "off", "cannot set the status off: it is one of enabled, disabled"),
    ]:
        with pytest.raises(AgentdError, match=said) as caught:
            set_status(TEXT, "providers.yaml", section, name, status)
        assert caught.value.kind == "gateway-edit"


def test_add_and_remove() -> None:
    fields = {"kind": "vllm", "params": {"a": 1}}
    added = add_entry(TEXT, "providers.yaml", ("providers", "new"), fields)
    block = "  new:\n    kind: vllm\n    params:\n      a: 1\n"
    assert parts(TEXT, added)[0] == ""
    assert added == TEXT.replace("none: {}\n", f"none: {{}}\n{block}")
    assert remove_entry(added, "providers.yaml", ("providers", "new")) == TEXT
    with pytest.raises(AgentdError, match=r"cannot add providers\.qwen to providers\.yaml: it is there already"):
        add_entry(TEXT, "providers.yaml", ("providers", "qwen"), fields)
    with pytest.raises(AgentdError, match=r"cannot find providers\.gone"):
        remove_entry(TEXT, "providers.yaml", ("providers", "gone"))


def test_remove() -> None:
    def without(path: str, text: str = TEXT) -> str:
        return remove_entry(text, "providers.yaml", path.split("."))

    assert without("providers.ollama") == TEXT.replace(
        "  ollama: {kind: local, api: ollama, port: ollama}  # always\n", ""
    )
    assert without("providers.ollama.api") == TEXT.replace("api: ollama, ", "")
    assert without("providers.ollama.port") == TEXT.replace(", port: ollama}", "}")
    assert without("providers.qwen.port") == TEXT.replace("    port: qwen\n", "")
    text = "a:\n  b: 1\n"
    assert parse(without("a.b", text), "f").plain() == {"a": None}
    assert without("a.0", "a:\n  - x: 1\n    y: 2\n  - z\n") == "a:\n  - z\n"
    assert without("a.0.x", "a:\n  - x: 1\n    y: 2\n") == "a:\n  - y: 2\n"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "# no end of line"])
def test_an_empty_file(text: str) -> None:
    assert parse(edited("providers", {"a": 1}, text), "f").plain() == {"providers": {"a": 1}}
    assert edited("providers", 1, text).startswith(text)


def test_other_line_ends_and_marks() -> None:
    text = "\ufeffa: 1\r\nb:\r\n  c: 2\r\n"
    assert edited("b.d", 3, text) == text + "  d: 3\r\n"
    assert edited("b.c", 3, text) == text.replace("2", "3")
    assert edited("b.c", 3, "b:\n  c: 2") == "b:\n  c: 3"
    assert edited("b.d", 3, "b:\n  c: 2") == "b:\n  c: 2\n  d: 3\n"


def test_what_shares_its_value_is_refused() -> None:
    text = "a: &x {k: 1}\nb: *x\nc: {<<: *x}\n"
    for path in ("b.k", "a.k", "c.k"):
        with pytest.raises(AgentdError, match="cannot edit") as caught:
            edited(path, 2, text)
        assert "by hand" in caught.value.hint
    assert edited("b", 2, text) == text.replace("b: *x", "b: 2")


def test_long_texts() -> None:
    text = "a: |\n  one\n  two\nb: >-\n  three\n\n  four\nc: 1\n"
    assert edited("a", "x", text) == text.replace("|\n  one\n  two", "x")
    assert parse(edited("b", "x", text), "f").plain() == {"a": "one\ntwo\n", "b": "x", "c": 1}


@pytest.mark.parametrize("value", [object(), {1: 2}, [object()]])
def test_what_cannot_be_written(value: object) -> None:
    with pytest.raises(AgentdError, match="is no text, number, list or mapping"):
        edited("providers.x", value)


def test_what_is_no_yaml() -> None:
    with pytest.raises(AgentdError) as caught:
        edited("a", 1, "a: [\n")
    assert caught.value.kind == "yaml-syntax"


# -- any document -----------------------------------------------------------------------------------------------------
SCALARS = st.sampled_from(["x", "a: b", "", "on", "1", "ä", "a, b", "# no", "two\nlines", 0, 7, -1.5, True, None])
NAMES = st.sampled_from(["kind", "port", "a b", "on", "x:y", "ä", "status", "#1"])
DOCUMENTS = st.dictionaries(
    NAMES,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
        max_leaves=12,
    ),
    min_size=1,
    max_size=4,
)


def paths(document: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Of every value, and of every place for a new key."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(document, dict):
        pairs = [*document.items(), ("new", None)]
    elif isinstance(document, list):
        pairs = [(str(number), item) for number, item in enumerate(document)]
    found = []
    for key, value in pairs:
        found.append((*before, key))
        if (*before, key)[-1] != "new":
            found += paths(value, (*before, key))
    return found


def inside(document: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        document = document[int(step) if isinstance(document, list) else step]
    return document


def commented(text: str, draw: Any) -> str:
    """With comments and empty lines where they say nothing."""
    lines = []
    for line in text.splitlines():
        if draw(st.booleans()):
            lines.append(draw(st.sampled_from(["# mine", "", "      # far: in"])))
        plain = not re.search(r"[\"|]", line)
        lines.append(line + draw(st.sampled_from(["", "  # why"])) if plain else line)
    return "\n".join(lines) + draw(st.sampled_from(["\n", "", "\n# tail\n"]))


@given(st.data())
def test_any_edit_of_any_document(data: st.DataObject) -> None:
    document = data.draw(DOCUMENTS)
    text = commented(dump(document), data.draw)
    assume(parse(text, "f").plain() == document)
    path = data.draw(st.sampled_from(paths(document)))
    value = data.draw(SCALARS | st.just({"k": ["v", 1]}))
    wanted: Any = copy.deepcopy(document)
    parent = inside(wanted, path[:-1])
    new = isinstance(parent, dict) and path[-1] not in parent
    parent[int(path[-1]) if isinstance(parent, list) else path[-1]] = value
    after = set_value(text, "f", path, value)
    assert parse(after, "f").plain() == wanted
    went, _ = parts(text, after)
    if new:
        assert went.strip() == "", "nothing is taken away"
    else:
        assert went.count("#") <= text.count("#")
    for comment in ("# mine", "# tail", "# far: in"):
        if new or not isinstance(inside(document, path), dict | list):
            assert after.count(comment) >= text.count(comment)


@given(st.data())
def test_any_removal(data: st.DataObject) -> None:
    document = data.draw(DOCUMENTS)
    text = commented(dump(document), data.draw)
    assume(parse(text, "f").plain() == document)
    path = data.draw(st.sampled_from([p for p in paths(document) if p[-1] != "new"]))
    wanted: Any = copy.deepcopy(document)
    parent = inside(wanted, path[:-1])
    del parent[int(path[-1]) if isinstance(parent, list) else path[-1]]
    after = remove_entry(text, "f", path)
    found = parse(after, "f").plain()
    assert found == wanted or (not parent and emptied(found, wanted, path[:-1]))


def emptied(found: Any, wanted: Any, path: tuple[str, ...]) -> bool:
    """Only the mapping or list around what went differs: it is nothing now."""
    if not path:
        return found is None
    return inside(found, path) is None and bool(wanted)


def test_the_defaults_can_be_edited() -> None:
    folder = ROOT / "etc" / "gateway"
    for name, section in (("providers.yaml", "providers"), ("model-mappings.yaml", "models")):
        text = (folder / name).read_text()
        for entry in parse(text, name).get(section).plain():  # type: ignore[union-attr, attr-defined]
            changed = set_status(text, name, section, entry, "disabled")
            changed = set_status(changed, name, section, entry, "enabled")
            assert parse(changed, name).get(section).get(entry).get("status").value == "enabled"  # type: ignore[union-attr]
            assert changed.count("#") == text.count("#")
