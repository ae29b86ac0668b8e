"""A YAML document with the place of every value, as the adapter that parses YAML hands it over."""

from __future__ import annotations

from dataclasses import dataclass

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which file, both numbers from 1; (FILE, 0, 0) for a file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Node:
    """`value`: a scalar, the items of a list, or the pairs of a mapping, in the order of the file.

    `span` holds the offsets (characters, from 0; end exclusive) of the value in the text, for edits that keep
    everything else.
    """

    value: Scalar | tuple[Node, ...] | tuple[tuple[Node, Node], ...]
    kind: str
    """"scalar", "list" or "mapping": an empty list and an empty mapping differ."""
    place: Place
    span: tuple[int, int] = (0, 0)

    @property
    def pairs(self) -> tuple[tuple[Node, Node], ...]:
        """Of a mapping; () for anything else."""
        return self.value if self.kind == "mapping" else ()  # type: ignore[return-value]

    @property
    def items(self) -> tuple[Node, ...]:
        """Of a list; () for anything else."""
        return self.value if self.kind == "list" else ()  # type: ignore[return-value]

    def get(self, key: str) -> Node | None:
        """The value of the first pair with this key."""
        return next((value for name, value in self.pairs if name.value == key), None)

    def plain(self) -> object:
        """dicts, lists and scalars, without places. Of a key that comes twice the last value."""
        if self.kind == "mapping":
            return {name.value: value.plain() for name, value in self.pairs if name.kind == "scalar"}
        if self.kind == "list":
            return [item.plain() for item in self.items]
        return self.value
