"""YAML texts: what they mean, where things stand, what is refused, and what is written."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from agentd.core.gateway.tree import Node
from agentd.core.gateway.yaml_text import YamlProblem, dump, parse
from agentd.errors import AgentdError
from agentd.findings import Severity

TEXT = """\
# what we have
providers:
  qwen: &base {kind: vllm, port: "qwen"}  # in a slot
  other:
    <<: *base
    port: 1_000
  ä: [é, *base]
note: |
  two
  lines

last:
"""


def test_values_and_places() -> None:
    tree = parse(TEXT, "providers.yaml")
    providers = tree.get("providers")
    assert providers is not None
    assert tree.plain() == {
        "providers": {
            "qwen": {"kind": "vllm", "port": "qwen"},
            "other": {"port": 1000, "kind": "vllm"},
            "ä": ["é", {"kind": "vllm", "port": "qwen"}],
        },
        "note": "two\nlines\n",
        "last": None,
    }
    (_, qwen), (other, _), (_, third) = providers.pairs
    assert str(qwen.place) == "providers.yaml:3:9"
    assert str(other.place) == "providers.yaml:4:3"
    port = qwen.get("port")
    assert port is not None
    assert TEXT[slice(*port.span)] == '"qwen"'
    assert TEXT[slice(*third.span)] == "[é, *base]"
    assert TEXT[slice(*third.items[1].span)] == "*base"
    assert str(third.items[1].place) == "providers.yaml:7:10", "the alias, not what it stands for"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", True), ("No", False), ("~", None), ("", None), ("null", None), ("1_000", 1000), ("-12", -12), ("+7", 7),
        ("0x1F", 31), ("0b11", 3), ("0", 0), ("1.5", 1.5), ("1.0e+3", 1000.0), (".5", 0.5), ("-.inf", -math.inf),
        # What YAML 1.1 would make something else of, or only seems to.
        ("010", "010"), ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("2024-02-01", "2024-02-01"), ("0o17", "0o17"),
        ("1e5", "1e5"), ("=", "="), ("y", "y"), ("'off'", "off"), ("!!str 5", "5"), ("!!int '5'", 5), ("! 5", 5),
        ("!!float 3", 3.0), ("!!bool 'yes'", True), ("!!null ''", None),
    ],
)  # fmt: skip
def test_scalars(text: str, value: object) -> None:
    (item,) = parse(f"- {text}\n", "f").items
    assert (item.value, type(item.value)) == (value, type(value))


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\n\n", "\ufeff"])
def test_empty(text: str) -> None:
    assert parse(text, "f").plain() is None


def test_a_byte_order_mark_moves_no_span() -> None:
    text = "\ufeffa: [1, 23]\n"
    item = parse(text, "f").get("a")
    assert item is not None
    assert text[slice(*item.items[1].span)] == "23"


def test_merge_keys() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\nd: {'<<': 1}\n"
    assert parse(text, "f").plain() == {**yaml.safe_load(text), "d": {"<<": 1}}


def bomb(levels: int) -> str:
    lines = [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, levels)]
    return "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(lines)


REFUSED = [
    ("a: [1, 2\nb: 3\n", "f:2:2", "(it begins in line 1)", "close the list"),
    ('a: "x\n', "f:1:4", "unexpected end of stream", "close the quotes"),
    ("a: b: c\n", "f:1:5", "mapping values are not allowed", "quote a value"),
    ("a: 1\n b: 2\n", "f:2:3", "mapping values are not allowed", "indentation"),
    ("a:\n\t- x\n", "f:2:1", "cannot start any token", "blanks, not tabs"),
    ("a: 1\n---\nb: 2\n", "f:2:1", "several documents", "---"),
    ("a: 1\nb: \x07\n", "f:2:4", "control character", "remove"),
    ("a: \ud800\n", "f:1:4", "control character", "remove"),
    ("a: !!python/object/apply:os.system [x]\n", "f:1:4", "tag !!python/object/apply:os.system", "remove the tag"),
    ("a: !mine x\n", "f:1:4", "tag !mine", "remove the tag"),
    ("a: !!set {x}\n", "f:1:4", "tag !!set", "remove the tag"),
    ("a: !!int x\n", "f:1:4", "not of the type int", "quotes"),
    ("a: " + "9" * 5000, "f:1:4", "not of the type int", "quotes"),
    ("a: *b\n", "f:1:4", "*b is not defined", "&NAME"),
    ("a: &x [*x]\n", "f:1:8", "*x contains itself", "&NAME"),
    ("a: &x {b: {<<: *x}}\n", "f:1:16", "*x contains itself", "&NAME"),
    ("<<: 3\n", "f:1:5", "<< is not a mapping", "*NAME"),
    ("? [a]\n: 1\n", "f:1:3", "a key is a list", "quote"),
    ("{a: 1}: 1\n", "f:1:1", "a key is a list", "quote"),
    ("[" * 60 + "]" * 60, "f:1:51", "deeper than 50", "flatten"),
    ("a: &a " + "[" * 30 + "]" * 30 + "\nb: " + "[" * 30 + "*a" + "]" * 30, "f:2:34", "deeper than 50", "flatten"),
    (bomb(9), "f:6:10", "more than 100000 values", "fewer aliases"),
    ("#" * 4_000_001, "f", "larger than 4 MB", "split"),
]


@pytest.mark.parametrize(("text", "place", "said", "fix"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_refused(text: str, place: str, said: str, fix: str) -> None:
    with pytest.raises(YamlProblem) as caught:
        parse(text, "f")
    problem = caught.value.problem
    assert (problem.check, problem.severity, str(problem.place)) == ("yaml-syntax", Severity.ERROR, place)
    assert said in problem.text
    assert fix in problem.fix
    assert caught.value.kind == "yaml-syntax"


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.sampled_from(["a\n", " a", "<<", "1:30", "...", "y", "1e5", "1.5"])
    | st.sampled_from(["yes", "0x1f", "1_0", "0o7", "010", "a: b", "a #b", "- a", "é", "?"])
)  # fmt: skip
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20) | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(DOCUMENTS)
def test_what_is_written_is_read_again(document: object) -> None:
    text = dump(document)
    assert parse(text, "f").plain() == document
    assert dump(document) == text
    assert yaml.safe_load(text) == document, "as LiteLLM reads it"
    assert yaml.load(text, Loader=yaml.CSafeLoader) == document


@example("! |")
@example("a: ! 12")
@example('a: ! "12"')
@example("! [a]")
@given(st.text(alphabet="ab:-[]{}#&*!|>'\"%@, \n\t<?01~=", max_size=60))
def test_any_text(text: str) -> None:
    """The same values as PyYAML's, or a refusal; and every scalar stands where its span says."""
    try:
        tree = parse(text, "f")
    except YamlProblem:
        return
    if "<<" in text or "=" in text:  # PyYAML has no value for these tags, unless they are keys.
        return
    documents = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
    assert len(documents) <= 1
    wanted = documents[0] if documents else None
    assert same(tree.plain(), wanted), (tree.plain(), wanted)
    for node in scalars(tree):
        start, end = node.span
        assert 0 <= start <= end <= len(text)
        if isinstance(node.value, str) and node.value and text[start] not in "'\"|>&*!":
            assert text[start:end].split() == node.value.split()


def same(ours: object, theirs: object) -> bool:
    """But for numbers with a leading zero or colons, which stay text with us."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if any(isinstance(key, str) and key[:1] in "01-" for key in ours):
            return True
        return list(ours) == [k for k in ours if k in theirs] and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs or (isinstance(ours, str) and isinstance(theirs, int | float))


def scalars(node: Node) -> list[Node]:
    if node.kind == "scalar":
        return [node]
    return [leaf for inner in (*node.items, *(v for pair in node.pairs for v in pair)) for leaf in scalars(inner)]


def test_the_written_form() -> None:
    document = {
        "model_list": [{"model_name": "a:b/c", "params": {"key": "os.environ/K", "m": 1, "x": 0.5, "off": "off"}}],
        "empty": {"a": [], "b": {}, "c": None, "d": True},
        "nested": [["w", "x"], []],
        "text": "zwei\nZeilen: ä",
    }
    assert dump(document) == (
        "model_list:\n"
        "  - model_name: a:b/c\n"
        "    params:\n"
        "      key: os.environ/K\n"
        "      m: 1\n"
        "      x: 0.5\n"
        '      "off": "off"\n'
        "empty:\n  a: []\n  b: {}\n  c: null\n  d: true\n"
        "nested:\n  - - w\n    - x\n  - []\n"
        'text: "zwei\\nZeilen: ä"\n'
    )


def test_a_name_too_long_for_yaml() -> None:
    with pytest.raises(AgentdError, match="longer than 900 characters") as caught:
        dump({"x" * 1000: 1})
    assert caught.value.kind == "yaml-name"
