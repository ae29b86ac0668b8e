"""The text of one configuration file, parsed; a syntax error becomes a ConfigProblem with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable

from agentd.core.layers import Fragment
from agentd.core.toml_lines import find_lines
from agentd.errors import ConfigProblem

MAX_DEPTH = 32
"""Far beyond anything that the schema knows; deeper data would be walked by recursion for nothing."""

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def parse_fragment(file: str, content: bytes) -> Fragment | ConfigProblem:
    """The parsed file, or the one thing that keeps it from being read."""
    if content.startswith(b"\xef\xbb\xbf"):
        return ConfigProblem(file, "", "starts with a byte order mark", allowed="UTF-8 without one", line=1)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return ConfigProblem(file, "", f"not UTF-8 (byte 0x{content[error.start]:02x})", line=line)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return _syntax_problem(file, text, str(error))
    except RecursionError:
        return ConfigProblem(file, "", "nested too deeply", allowed=f"at most {MAX_DEPTH} levels")
    except ValueError:  # from int(): more digits than Python converts
        return ConfigProblem(file, "", "not valid TOML: a number has too many digits")
    if _too_deep(data):
        return ConfigProblem(file, "", "nested too deeply", allowed=f"at most {MAX_DEPTH} levels")
    return Fragment(file, data, find_lines(text, data))


def _too_deep(data: object) -> bool:
    """Level by level: dotted keys nest without any bracket, as deep as a line is long."""
    level: list[object] = [data]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _syntax_problem(file: str, text: str, reason: str) -> ConfigProblem:
    """tomllib ends its message with the place; we say the line where all our messages say it."""
    place = _PLACE.search(reason)
    line, column = len(text.rstrip().splitlines()) or 1, ""
    if place:
        reason = reason[: place.start()]
        if place[1]:
            line, column = int(place[1]), f", column {place[2]}"
        else:
            column = ", at the end of the file"
    return ConfigProblem(file, "", f"not valid TOML: {reason[:1].lower()}{reason[1:]}{column}", line=line)
