"""The fields of one mapping of a source, with their places. What is wrong is collected, nothing is raised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentd.core.gateway.read_base import (
    LARGEST,
    Problems,
    entries,
    good_name,
    meant,
    text_wanted,
    value_of,
    whole,
)
from agentd.core.gateway.secret_words import is_variable, shown
from agentd.core.gateway.tree import Node, Place
from agentd.core.quantities import DURATION_FORM, QuantityError, parse_seconds


class Fields:
    """The fields of one entry. Getters give the default for what is missing or wrong. `places` fills as they are read.

    `what`: 'model "qwen"', for messages. `prefix`: of the keys in `places` ("limits.").
    """

    def __init__(
        self,
        problems: Problems,
        node: Node,
        what: str,
        known: Sequence[str],
        *,
        places: dict[str, Place] | None = None,
        prefix: str = "",
    ) -> None:
        self.problems = problems
        self.node = node
        self.what = what
        self.places: dict[str, Place] = {} if places is None else places
        self._prefix = prefix
        self._values: dict[str, Node] = {}
        for name, key, value in entries(problems, node, what):
            if name in known:
                self._values[name] = value
                self.places[prefix + name] = value.place
            else:
                fix = f"{meant(name, known)}allowed: {', '.join(known)}"
                problems.say("unknown-key", key.place, shown(name), f"{what} has no such field", fix)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def node_of(self, name: str) -> Node | None:
        """None also for an empty value: `limits:` with nothing behind it is as if it were not there."""
        value = self._values.get(name)
        return None if value is None or (value.kind == "scalar" and value.value is None) else value

    def missing(self, place: Place, name: str, fix: str) -> None:
        """Not of something that is no mapping at all, which was told."""
        if self.node.kind == "mapping" or self.node.value is None:
            self.problems.say("missing-key", place, "", f"{self.what} has no {name}", fix)

    def bad(self, node: Node, text: str, fix: str) -> None:
        self.problems.say("bad-value", node.place, value_of(node), text, fix)

    def sub(self, name: str, known: Sequence[str]) -> Fields:
        """The fields of an inner mapping; without any when it is missing or wrong."""
        node = self.node_of(name) or Node((), "mapping", self.node.place)
        what = f"{name} of {self.what}"
        return Fields(self.problems, node, what, known, places=self.places, prefix=f"{self._prefix}{name}.")

    def text(self, name: str, default: str = "") -> str:
        node = self.node_of(name)
        if node is None:
            return default
        if not isinstance(node.value, str):
            self.problems.wrong_type(node, f"{name} of {self.what}", "text", text_wanted(node))
            return default
        if not node.value.strip():
            self.bad(node, f"{name} of {self.what} is empty", "write a value, or remove the line")
            return default
        return node.value.strip()

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        node = self.node_of(name)
        if node is None:
            return default
        if isinstance(node.value, str) and node.value in allowed:
            return node.value
        word = node.value if isinstance(node.value, str) else ""
        listed = ", ".join(allowed)
        self.bad(node, f"{name} of {self.what} must be one of: {listed}", f"{meant(word, allowed)}allowed: {listed}")
        return default

    def boolean(self, name: str, default: bool) -> bool:
        node = self.node_of(name)
        if node is None or isinstance(node.value, bool):
            return default if node is None else bool(node.value)
        self.problems.wrong_type(node, f"{name} of {self.what}", "true or false")
        return default

    def whole(self, name: str, low: int, high: int = LARGEST) -> int | None:
        node = self.node_of(name)
        return None if node is None else whole(self.problems, node, f"{name} of {self.what}", low, high)

    def seconds(self, name: str, *, zero: bool = False) -> float | None:
        node = self.node_of(name)
        if node is None:
            return None
        try:
            value = parse_seconds(node.value if node.kind == "scalar" else None)
        except QuantityError as error:
            self.bad(node, f"{name} of {self.what} {_as_clause(str(error))}", f"write {DURATION_FORM}")
            return None
        if value > 0 or zero:
            return value
        self.bad(node, f"{name} of {self.what} must be more than 0", f"write {DURATION_FORM}")
        return None

    def variable(self, name: str, default: str = "") -> str:
        """The name of an environment variable. What is written there instead may be a key, and is not shown."""
        node = self.node_of(name)
        if node is None:
            return default
        word = node.value if isinstance(node.value, str) else ""
        bare = word.removeprefix("os.environ/")
        if bare != word and is_variable(bare):
            self.bad(node, f"{name} of {self.what} takes the name of a variable alone", f"write {bare}")
        elif not is_variable(word):
            text = f"{name} of {self.what} must be the name of an environment variable, not a key itself"
            fix = f"put the key into the environment file, and write {name}: ITS_VARIABLE here"
            self.problems.say("secret-in-source", node.place, "", text, fix)
        else:
            return word
        return default

    def words(self, name: str, kind: str, allowed: Sequence[str] | None = None) -> tuple[str, ...]:
        """A list of names, or of the allowed words; one that comes twice is told and left out."""
        node = self.node_of(name)
        if node is None:
            return ()
        if node.kind != "list":
            example = value_of(node) or "NAME"
            self.problems.wrong_type(node, f"{name} of {self.what}", "a list", f"write {name}: [{example}]")
            return ()
        found: list[str] = []
        for item in node.items:
            word = self._word(item, name, kind, allowed)
            if word and word in found:
                text = f'"{word}" comes twice in {name} of {self.what}'
                self.problems.say("duplicate-name", item.place, word, text, "remove one of the two")
            elif word:
                self.places[f"{self._prefix}{name}.{len(found)}"] = item.place
                found.append(word)
        return tuple(found)

    def _word(self, item: Node, name: str, kind: str, allowed: Sequence[str] | None) -> str:
        if not isinstance(item.value, str):
            self.problems.wrong_type(item, f"an entry of {name} of {self.what}", "text", text_wanted(item))
        elif allowed is None:
            return item.value if good_name(self.problems, item, kind) else ""
        elif item.value in allowed:
            return item.value
        else:
            fix = f"{meant(item.value, allowed)}allowed: {', '.join(allowed)}"
            self.bad(item, f"{name} of {self.what} has an unknown word", fix)
        return ""

    def free(self, name: str) -> Mapping[str, Any]:
        """A mapping whose content is LiteLLM's affair. Only the same key twice is told, and keys that are no text."""
        node = self.node_of(name)
        return {} if node is None else self._free(node, f"{name} of {self.what}", f"{self._prefix}{name}.")

    def _free(self, node: Node, what: str, prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, _, value in entries(self.problems, node, what):
            self.places[prefix + name] = value.place
            found[name] = self._value(value, f"{name} of {what}", f"{prefix}{name}.")
        return found

    def _value(self, node: Node, what: str, prefix: str) -> Any:
        if node.kind == "mapping":
            return self._free(node, what, prefix)
        if node.kind == "list":
            for number, item in enumerate(node.items):
                self.places[f"{prefix}{number}"] = item.place
            return [self._value(item, what, f"{prefix}{number}.") for number, item in enumerate(node.items)]
        return node.value


def _as_clause(words: str) -> str:
    return words if words.startswith(("is ", "has ", "must ")) else "is not a duration"
