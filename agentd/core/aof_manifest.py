"""The manifest of Redis 7's append-only directory: which files make up the data set, and in which order. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentd.core.redis_args import split, written

LONGEST = 1024
"""Bytes that Redis reads as one line, the newline with them."""

_SEQUENCE = re.compile(r"\.([0-9]{1,18})\.(?:base|incr)\.[a-z]+$")
_NUMBER = re.compile(r"[ \t\v\f\r\n]*([+-]?[0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Names in the append-only directory. Redis loads `base` first, then the increments in their order."""

    base: str
    """"" when there is none: all that is known then lies in the increments."""
    increments: tuple[str, ...]
    history: tuple[str, ...]
    """Superseded files that Redis has yet to remove."""


def parse_manifest(text: str) -> Manifest:
    """As Redis reads it when it starts. Raises ValueError, with a sentence, for what would keep it from starting."""
    if not text:
        raise ValueError("the manifest is empty")
    base, increments, history, newest = "", list[str](), list[str](), 0
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), 1):
        if line.startswith("#"):
            continue
        name, sequence, kind = _entry(line, number)
        if kind == "h":
            history.append(name)
        elif kind == "b":
            if base:
                raise ValueError(f"line {number} of the manifest names a second base file")
            base = name
        elif sequence <= newest:
            raise ValueError(f"line {number} of the manifest has sequence {sequence} after {newest}")
        else:
            increments.append(name)
            newest = sequence
    return Manifest(base, tuple(increments), tuple(history))


def _entry(line: str, number: int) -> tuple[str, int, str]:
    """(file name, sequence, type "b", "i" or "h") of pairs of a key and its value; other keys are ignored."""
    where = f"line {number} of the manifest"
    if len(line.encode("utf-8", "surrogateescape")) > LONGEST:
        raise ValueError(f"{where} is longer than {LONGEST} bytes")
    if not line.endswith("\n"):
        raise ValueError(f"{where} does not end in a newline")
    words = split(line.strip(" \t\r\n"))
    if words is None:
        raise ValueError(f"{where} has unbalanced quotes")
    if len(words) < 6 or len(words) % 2:
        raise ValueError(f"{where} is not made of at least three keys and their values")
    found = {words[place].text.lower(): words[place + 1].text for place in range(0, len(words), 2)}
    name, kind = found.get("file", ""), found.get("type", "")[:1]
    digits = _NUMBER.match(found.get("seq", ""))
    sequence = int(digits[1]) if digits else 0
    if "/" in name or "\\" in name:
        raise ValueError(f"{where} names a file in another directory")
    if not name or not sequence or not kind:
        raise ValueError(f"{where} lacks its file, its seq or its type")
    if kind not in "bih":
        raise ValueError(f"{where} has an unknown type")
    return name, sequence, kind


def render_manifest(base: str, increments: Sequence[str] = ()) -> str:
    """As Redis writes it. Sequences are those in the names ("appendonly.aof.3.incr.aof"), or else count up from 1.

    Raises ValueError when Redis would not read it back: names with a slash, or sequences that do not grow.
    """
    text = _line(base, _sequence(base) or 1, "b") if base else ""
    newest = 0
    for name in increments:
        newest = _sequence(name) or newest + 1
        text += _line(name, newest, "i")
    parse_manifest(text)
    return text


def _line(name: str, sequence: int, kind: str) -> str:
    return f"file {written(name)} seq {sequence} type {kind}\n"


def _sequence(name: str) -> int:
    match = _SEQUENCE.search(name)
    return int(match[1]) if match else 0
