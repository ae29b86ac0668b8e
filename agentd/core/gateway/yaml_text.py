"""YAML texts to trees with places, and documents to YAML texts.

Values are what YAML 1.1 makes of them, since LiteLLM's parser (PyYAML) does: `yes`, `on`, `off` and `no` without quotes
are booleans, `1_000` is 1000, `0x1f` is 31. Three rules of 1.1 that surprise are left out, and such a value is text: a
number with a leading zero (`010` would be octal 8), `1:30` (would be 90), a date (`2024-02-01`). `0o17` and `1e5` are
text in 1.1 anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import yaml

from agentd.core.gateway import yaml_out
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.tree import Node, Place, Scalar
from agentd.errors import AgentdError
from agentd.findings import Severity

LARGEST = 4_000_000
"""Characters of one file."""
DEEPEST = 50
"""Levels of mappings and lists, aliases followed."""
MOST_COPIED = 100_000
"""Values that the aliases and merge keys of one file may stand for."""

_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_FIXES = (
    ("cannot start any token", "indent with blanks, not tabs, and quote a value that begins with @, ` or %"),
    ("mapping values are not allowed", "check the indentation of this line, and quote a value that holds a colon"),
    ("did not find expected key", "begin this line at the column of the keys above it"),
    ("expected <block end>", "begin this line at the column of the keys above it"),
    ("expected ':'", "write KEY: VALUE, with a blank after the colon"),
    ("did not find expected '-'", "begin this line with a dash at the column of the entries above it"),
    ("',' or ']'", "close the list with ], and put a comma between its entries"),
    ("',' or '}'", "close the mapping with }, and put a comma between its entries"),
    ("unexpected end of stream", "close the quotes"),
    ("undefined alias", "define it before with &NAME, or quote a value that begins with *"),
    ("unknown escape", "use single quotes, or write \\\\ for a backslash"),
)
_FIX = "correct the text at this place"


class YamlProblem(AgentdError):
    """The text is no YAML document that we take; `problem` says where and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__("yaml-syntax", f"cannot read {problem.place}: {problem.text}", hint=problem.fix)
        self.problem = problem


def parse(text: str, file: str) -> Node:
    """The one document of the text; an empty text is the scalar None. Raises YamlProblem."""
    if len(text) > LARGEST:
        raise _problem(Place(file), f"the file is larger than {LARGEST // 1_000_000} MB", "split it, or remove ballast")
    bare = text.removeprefix("\ufeff")
    try:
        return _Builder(file, len(text) - len(bare)).build(yaml.parse(bare, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if error.context_mark and mark and mark.index >= len(bare.rstrip()):
            mark = error.context_mark  # Something that is not closed: where it begins says more than the end.
        place = _place(file, mark)
        words = ", ".join(part for part in (error.context, error.problem) if part)
        if error.context_mark and error.context_mark.line + 1 < place.line:
            words += f" (it begins in line {error.context_mark.line + 1})"
        raise _problem(place, f"it is not valid YAML: {words}", _fix(words)) from None
    except (yaml.YAMLError, UnicodeEncodeError):  # A character that YAML does not allow; it has no line.
        raise _problem(_odd_character(text, file), "it holds a control character", "remove it") from None


def dump(document: object) -> str:
    """Block style, keys in their order, one line a value. The same text for the same document, whatever PyYAML is
    installed. Raises AgentdError("yaml-name") for a key too long for YAML."""
    return yaml_out.text_of(document, lambda text: _implicit(text) == "str")


def one_line(value: object, *, flow: bool = False) -> str:
    """A value on one line; `flow`: to stand inside [...] or {...}. Raises TypeError for what YAML has no scalar for."""
    return yaml_out.one_line(value, lambda text: _implicit(text) == "str", flow=flow)


def _problem(place: Place, text: str, fix: str, value: str = "") -> YamlProblem:
    return YamlProblem(Problem("yaml-syntax", Severity.ERROR, place, value, text, fix))


def _place(file: str, mark: Any) -> Place:
    """libyaml's marks have the same fields as PyYAML's, and another type."""
    return Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)


def _fix(words: str) -> str:
    return next((fix for part, fix in _FIXES if part in words), _FIX)


def _odd_character(text: str, file: str) -> Place:
    match = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if match is None:
        return Place(file)
    before = text[: match.start()]
    return Place(file, before.count("\n") + 1, match.start() - (before.rfind("\n") + 1) + 1)


@dataclass(slots=True)
class _Size:
    """What a node stands for, aliases followed: all its values, and its levels."""

    count: int = 1
    depth: int = 0


@dataclass(slots=True)
class _Open:
    """A mapping or a list whose end is still to come."""

    event: yaml.CollectionStartEvent
    children: list[Node]
    sizes: list[_Size]


class _Builder:
    """Nodes from events. Not by yaml.compose: it recurses in C, and loses the place of an alias."""

    def __init__(self, file: str, offset: int) -> None:
        self._file = file
        self._offset = offset
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, _Size]] = {}
        self._copied = 0
        self._root: Node | None = None
        self._documents = 0

    def build(self, events: Iterator[yaml.Event]) -> Node:
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                value = self._scalar(event)
                self._add(Node(value, "scalar", self._place(event), self._span(event)), _Size(), event.anchor)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._enter(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._leave(event)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    raise self._refused(event, "it holds several documents", "remove the line ---")
        return self._root or Node(None, "scalar", Place(self._file, 1, 1))

    def _place(self, event: yaml.Event) -> Place:
        return _place(self._file, event.start_mark)

    def _span(self, event: yaml.Event) -> tuple[int, int]:
        start, end = (cast(Any, mark).index + self._offset for mark in (event.start_mark, event.end_mark))
        return start, end

    def _refused(self, event: yaml.Event, text: str, fix: str, value: str = "") -> YamlProblem:
        return _problem(self._place(event), text, fix, value)

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        # For PyYAML, and so for LiteLLM, "!" before a value means what no tag means, quotes or not.
        if event.tag in (None, "!") and not event.implicit[0]:
            return str(event.value)
        tag = _implicit(event.value) if event.tag in (None, "!") else self._tag(event, event.tag)
        try:
            return _construct(tag, event.value)
        except (ValueError, KeyError, IndexError):
            raise self._refused(
                event, f"the value is not of the type {tag}", "correct it, or put it into quotes"
            ) from None

    def _tag(self, event: yaml.Event, tag: str) -> str:
        name = tag.removeprefix(_TAG)
        wanted = ("str", "int", "float", "bool", "null") if isinstance(event, yaml.ScalarEvent) else ("map", "seq")
        if tag == _TAG + name and name in wanted:
            return name
        shown = "!!" + name if tag.startswith(_TAG) else tag
        raise self._refused(event, f"the tag {shown} is not supported", "remove the tag", shown)

    def _enter(self, event: yaml.CollectionStartEvent) -> None:
        if event.tag is not None and event.tag != "!":
            self._tag(event, event.tag)
        self._open.append(_Open(event, [], []))
        self._check_depth(event, len(self._open))
        if event.anchor:
            self._anchors.pop(event.anchor, None)  # Inside itself it is not known yet.

    def _leave(self, end: yaml.CollectionEndEvent) -> None:
        done = self._open.pop()
        event, children = done.event, done.children
        size = _Size(1 + sum(s.count for s in done.sizes), 1 + max((s.depth for s in done.sizes), default=0))
        start, stop = self._span(event)[0], self._span(end)[1]
        if not event.flow_style and children:  # The end of a block is noticed only at the next thing in the text.
            stop = max(children[-1].span[1], children[-2].span[1] if len(children) > 1 else 0)
        span, place = (start, stop), self._place(event)
        if isinstance(event, yaml.SequenceStartEvent):
            node = Node(tuple(children), "list", place, span)
        else:
            pairs = list(zip(children[::2], children[1::2], strict=True))
            node = Node(tuple(self._merged(pairs)), "mapping", place, span)
        self._add(node, size, event.anchor)

    def _alias(self, event: yaml.AliasEvent) -> None:
        found = self._anchors.get(event.anchor or "")
        if found is None:
            inside = any(opened.event.anchor == event.anchor for opened in self._open)
            text = "contains itself" if inside else "is not defined before"
            raise self._refused(event, f"the alias *{event.anchor} {text}", _fix("undefined alias"), f"*{event.anchor}")
        node, size = found
        self._copied += size.count
        if self._copied > MOST_COPIED:
            text = f"its aliases stand for more than {MOST_COPIED} values"
            raise self._refused(event, text, "write the values out, or use fewer aliases", f"*{event.anchor}")
        self._check_depth(event, len(self._open) + size.depth)
        self._add(replace(node, place=self._place(event), span=self._span(event)), size, None)

    def _check_depth(self, event: yaml.Event, depth: int) -> None:
        if depth > DEEPEST:
            raise self._refused(event, f"it is nested deeper than {DEEPEST} levels", "flatten it")

    def _add(self, node: Node, size: _Size, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = (node, size)
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if isinstance(parent.event, yaml.MappingStartEvent) and len(parent.children) % 2 == 0 and node.kind != "scalar":
            text = "a key is a list or a mapping, it must be a plain value"
            raise _problem(node.place, text, "quote a value that begins with [ or {")
        parent.children.append(node)
        parent.sizes.append(size)

    def _merged(self, pairs: list[tuple[Node, Node]]) -> Iterator[tuple[Node, Node]]:
        """The pairs, with those of the mappings behind `<<` that have no pair of their own, in their order."""
        sources = [value for key, value in pairs if _is_merge(key)]
        yield from (pair for pair in pairs if not _is_merge(pair[0]))
        if not sources:
            return
        seen = {(type(key.value), key.value) for key, _ in pairs}
        for source in sources:
            for mapping in source.items if source.kind == "list" else (source,):
                if mapping.kind != "mapping":
                    raise _problem(mapping.place, "the value of << is not a mapping", "write <<: *NAME")
                for key, value in mapping.pairs:
                    if (type(key.value), key.value) not in seen:
                        seen.add((type(key.value), key.value))
                        yield key, value


def _is_merge(key: Node) -> bool:
    """A quoted "<<" is a name like any other: its span is longer."""
    return key.value == "<<" and key.span[1] - key.span[0] == 2


def _implicit(text: str) -> str:
    """The type of a plain scalar: str, int, float, bool, null, timestamp, ..."""
    table = yaml.SafeLoader.yaml_implicit_resolvers
    for tag, pattern in table.get(text[:1], ()):
        if pattern.match(text):
            return str(tag).removeprefix(_TAG)
    return "str"


def _construct(tag: str, text: str) -> Scalar:
    """Raises ValueError, KeyError or IndexError for a text that is not of this type."""
    if tag == "bool":
        return {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}[text.lower()]
    if tag == "null":
        return None
    if tag not in ("int", "float") or ":" in text:
        return text
    digits = text.replace("_", "").lower()
    sign, bare = (-1, digits[1:]) if digits[0] == "-" else (1, digits.lstrip("+"))
    if tag == "float":
        return sign * float(bare.lstrip(".") if bare in (".inf", ".nan") else bare)
    if bare.startswith(("0x", "0b")):
        return sign * int(bare, 0)
    return text if bare.startswith("0") and len(bare) > 1 else sign * int(bare)
