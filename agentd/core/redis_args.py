"""Words as Redis 7 reads and writes them (sdssplitargs, sdscatrepr), and what it makes of its command line. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

_BLANKS = " \t\n\r\v\f"
# A word is plain text that may end in one quoted part; after the closing quote comes a blank or the end. A backslash
# means something inside quotes only, and inside '...' only before another '.
_ENDED = r"(?=[ \t\n\r\v\f]|\Z)"
_WORD = re.compile(
    rf"""([^ \n\r\t"']*)(?:"((?:\\.|[^"\\])*)"{_ENDED}|'((?:\\'|[^'])*+)'{_ENDED}|(?![^ \n\r\t]))""", re.DOTALL
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_MEANING = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a"}
_WRITTEN = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\a": "\\a", "\b": "\\b"}
_UNSAFE = re.compile(r"[^!-~]|[\\\"']")

_SERVER = re.compile(r"(?:redis|valkey|keydb)-server")
_SEVERAL = re.compile(r"\$[A-Za-z_]\w*")
"""A word that systemd replaces by any number of words."""
_VARIABLE = re.compile(r"\$(?:\{\w+\}|[A-Za-z_])")


@dataclass(frozen=True, slots=True)
class Word:
    """One argument. `start` and `end`: where it stands in the line, quotes included."""

    text: str
    start: int
    end: int


def split(line: str) -> tuple[Word, ...] | None:
    """The arguments of a line; None when its quotes are not balanced. What follows a NUL is not read."""
    line = line.partition("\0")[0]
    words: list[Word] = []
    at = 0
    while True:
        while at < len(line) and line[at] in _BLANKS:
            at += 1
        if at == len(line):
            return tuple(words)
        match = _WORD.match(line, at)
        if match is None:
            return None
        words.append(Word(_meaning(match), at, match.end()))
        at = match.end()


def _meaning(match: re.Match[str]) -> str:
    plain, double, single = match.groups()
    if double is not None:
        # Bytes given as \xHH may make up a character together.
        text = plain + _ESCAPE.sub(_unescape, double)
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return str(plain + (single or "").replace("\\'", "'"))


def _unescape(match: re.Match[str]) -> str:
    digits, letter = match.groups()
    if digits is not None:
        return bytes.fromhex(digits).decode("ascii", "surrogateescape")
    return _MEANING.get(letter, letter)


def quote(text: str) -> str:
    """The text in double quotes, as Redis writes it; `split` reads it back."""
    return '"' + "".join(map(_written, text.encode("utf-8", "surrogateescape"))) + '"'


def _written(byte: int) -> str:
    character = chr(byte)
    return _WRITTEN.get(character) or (character if " " <= character <= "~" else f"\\x{byte:02x}")


def written(text: str) -> str:
    """The text as one argument, in quotes only where it needs them."""
    return quote(text) if not text or _UNSAFE.search(text) else text


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What Redis makes of its arguments: a file, and lines that are read as if they stood at the file's end."""

    file: str | None
    """As it was named; None when there is none."""
    text: str
    problems: tuple[str, ...]
    """Why this is not, or not all, what the server gets."""


def command_line(argv: Sequence[str]) -> CommandLine:
    """Of a whole ExecStart=, program first, as systemd tells it; () says nothing."""
    if not argv:
        return CommandLine(None, "", ())
    place = next((i for i, word in enumerate(argv) if _SERVER.fullmatch(posixpath.basename(word))), None)
    if place is None and any(" " in word and _SERVER.search(word) for word in argv):
        return CommandLine(None, "", ("ExecStart= starts the server by a shell, so its own arguments are not known",))
    place = place or 0
    words = [word for word in argv[place + 1 :] if not _SEVERAL.fullmatch(word)]
    problems = []
    if any(_VARIABLE.search(word.replace("$$", "")) for word in argv[place + 1 :]):
        problems.append("ExecStart= takes arguments from environment variables, and their values are not known")
    words = [word.replace("$$", "$") for word in words]
    file = words[0] if words and not words[0].startswith("-") else None
    rest = words if file is None else words[1:]
    if (file is None and rest[:1] == ["-"]) or rest[-1:] == ["-"]:
        problems.append("ExecStart= has the server read configuration from its standard input, too")
    if "--sentinel" in rest:
        problems.append("ExecStart= starts a sentinel (--sentinel), which keeps no data")
    return CommandLine(file, _options(rest, first=file is None), tuple(problems))


def _options(words: Sequence[str], *, first: bool) -> str:
    """The lines that Redis writes for itself from its arguments. `first`: no file stands before them.

    An option's name is taken as it is, so `--save 900 1` may be one argument; a value is quoted, so it stays one word.
    What begins with -- directly after an option without a value is its value, except after --save.
    """
    text, complete = "", True
    last = len(words) - 1
    for place, word in enumerate(words):
        if word == "-" and (place == last or (first and place == 0)):
            continue
        if not (complete and word.startswith("--")):
            text += quote(word) + " "
            complete = True
            continue
        text += ("\n" if text else "") + word[2:] + " "
        complete = len(split(word) or ()) != 1
        if complete or word.lower() not in ("--save", "--sentinel"):
            continue
        if place == last or words[place + 1].startswith("--"):
            text += '""' if word.lower() == "--save" else ""
            complete = True
    return text
