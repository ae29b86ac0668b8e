"""What reading a source rests on: collected problems, entries of a mapping, names, words for messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from agentd.core.gateway.problems import Problem
from agentd.core.gateway.secret_words import shown
from agentd.core.gateway.tree import Node, Place
from agentd.findings import Severity

LARGEST = 1_000_000_000_000
NAME_FORM = "letters, digits and . _ - / : @ +, beginning with a letter or a digit"
RESERVED = ("all-proxy-models", "all-team-models", "no-default-models")
"""LiteLLM gives these names of models a meaning of its own."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,199}")


class Problems:
    """Everything found so far; every statement of the shape of a source is an error."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def say(self, check: str, place: Place, value: str, text: str, fix: str) -> None:
        self.found.append(Problem(check, Severity.ERROR, place, value, text, fix))

    def wrong_type(self, node: Node, what: str, wanted: str, fix: str = "") -> None:
        text = f"{what} must be {wanted}, not {kind_of(node)}"
        self.say("wrong-type", node.place, value_of(node), text, fix or f"write {wanted}")


def kind_of(node: Node) -> str:
    if node.kind != "scalar":
        return f"a {node.kind}"
    if node.value is None:
        return "empty"
    if isinstance(node.value, bool):
        return "true or false"
    return "text" if isinstance(node.value, str) else "a number"


def value_of(node: Node) -> str:
    """As YAML has it, for a message."""
    if node.kind != "scalar":
        return ""
    if node.value is None or isinstance(node.value, bool):
        return {None: "null", True: "true", False: "false"}[node.value]
    return shown(node.value)


def text_wanted(node: Node) -> str:
    """The fix for something that was meant as text."""
    if isinstance(node.value, bool):
        return "put it into quotes: YAML reads yes, no, on and off without quotes as true and false"
    return f'put it into quotes: "{value_of(node)}"' if isinstance(node.value, int | float) else "write text"


def meant(word: str, known: Iterable[str]) -> str:
    """`did you mean "qwen"? ` or ""."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{close[0]}"? ' if close else ""


def entries(problems: Problems, node: Node, what: str) -> Iterator[tuple[str, Node, Node]]:
    """(key, its node, value) of a mapping, of a key that comes twice the first. `what`: "a model", for messages."""
    if node.kind != "mapping":
        if node.value is not None:
            problems.wrong_type(node, what, "a mapping", "write one NAME: VALUE on each line below it")
        return
    seen: dict[object, Place] = {}
    for key, value in node.pairs:
        if not isinstance(key.value, str):
            problems.wrong_type(key, f"a name in {what}", "text", text_wanted(key))
        elif key.value in seen:
            text = f'"{shown(key.value)}" comes twice in {what}, first in line {seen[key.value].line}'
            problems.say("duplicate-name", key.place, shown(key.value), text, "remove or rename one of the two")
        else:
            seen[key.value] = key.place
            yield key.value, key, value


def names(problems: Problems, node: Node, what: str, kind: str) -> Iterator[tuple[str, Node, Node]]:
    """The entries whose key is a good name; `kind`: "model"."""
    for name, key, value in entries(problems, node, what):
        if good_name(problems, key, kind):
            yield name, key, value


def good_name(problems: Problems, node: Node, kind: str) -> bool:
    """`node`: a text."""
    name = str(node.value)
    if name in RESERVED:
        problems.say("bad-value", node.place, name, f'"{name}" means something else to LiteLLM', "choose another name")
    elif not NAME.fullmatch(name):
        text = f"the name of a {kind} holds a character that is not allowed, or is empty or too long"
        problems.say("bad-value", node.place, shown(name), text, f"use {NAME_FORM}")
    else:
        return True
    return False


def whole(problems: Problems, node: Node, what: str, low: int, high: int) -> int | None:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int):
        digits = value.replace("_", "").lstrip("0") if isinstance(value, str) else ""
        fix = f"write {digits}, without quotes or leading zeros" if digits.isdecimal() else "write a whole number"
        problems.wrong_type(node, what, "a whole number", fix)
    elif not low <= value <= high:
        text = f"{what} must be from {low} to {high}"
        problems.say("bad-value", node.place, shown(value), text, f"write a number from {low} to {high}")
    else:
        return value
    return None
