"""The line of every key in a TOML document, which tomllib does not tell.

Only for text that tomllib has already accepted: a valid document needs no more than telling strings, comments, brackets
and keys apart. `find_lines` compares what it found with the parsed document and returns nothing rather than a guess.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any

KeyPath = tuple[str, ...]

_STRING = (
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'  # up to two quotes may stand before the closing three
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
)
_STRING_RE = re.compile(_STRING, re.DOTALL)
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")
_ARRAY_PIECE = re.compile(_STRING + r"|#[^\n]*|[\[\]]|[^\[\]#\"']+", re.DOTALL)


def find_lines(text: str, parsed: Mapping[str, Any]) -> dict[KeyPath, int]:
    """Line numbers from 1, for tables and values; of a table, the line where it first appears. {} when in doubt."""
    text = text.replace("\r\n", "\n")
    scanner = _Scanner(text)
    try:
        scanner.document()
    except (_Lost, RecursionError):
        return {}
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    lines = {path: bisect_right(starts, at) for path, at in scanner.found.items()}
    arrays = {path for path, value in _paths(parsed) if isinstance(value, list)}
    # Below an array (of tables) there are no paths: it is one value to us.
    lines = {path: line for path, line in lines.items() if not any(path[:n] in arrays for n in range(1, len(path)))}
    return lines if lines.keys() == {path for path, _ in _paths(parsed)} else {}


def _paths(table: Mapping[str, Any], at: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in table.items():
        yield (*at, key), value
        if isinstance(value, dict):
            yield from _paths(value, (*at, key))


class _Lost(Exception):
    """The text is not what the scanner takes it for."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self.text):
            start = self.at
            if self._take("["):
                double = self._take("[")
                table = self._note((), self._key(), start)
                self._expect("]" * (1 + double))
            else:
                self._pair(table)

    def _pair(self, table: KeyPath) -> None:
        start = self.at
        path = self._note(table, self._key(), start)
        self._expect("=")
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        if self.text.startswith("[", self.at):
            self._array()
        elif self._take("{"):
            while not (self._skip(_BLANK) and self._take("}")):
                self._pair(path)
                self._skip(_BLANK)
                self._take(",")
        elif self.text.startswith(('"', "'"), self.at):
            self._match(_STRING_RE)
        else:
            self._match(_SCALAR)

    def _array(self) -> None:
        depth = 0
        while True:
            piece = self._match(_ARRAY_PIECE)
            depth += (piece == "[") - (piece == "]")
            if depth == 0:
                return

    def _key(self) -> KeyPath:
        parts = []
        while True:
            self._skip(_SPACE)
            quoted = self.text.startswith(('"', "'"), self.at)
            part = self._match(_STRING_RE if quoted else _BARE_KEY)
            parts.append(str(tomllib.loads(f"key = {part}")["key"]) if quoted else part)
            self._skip(_SPACE)
            if not self._take("."):
                return tuple(parts)

    def _note(self, table: KeyPath, key: KeyPath, start: int) -> KeyPath:
        """Remember the key and the tables that a dotted key makes on its way."""
        for end in range(1, len(key) + 1):
            self.found.setdefault((*table, *key[:end]), start)
        return (*table, *key)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None or match.end() == self.at:
            raise _Lost
        self.at = match.end()
        return match[0]

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def _take(self, text: str) -> bool:
        if not self.text.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise _Lost
