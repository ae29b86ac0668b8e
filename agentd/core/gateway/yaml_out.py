"""Documents (dicts, lists and scalars) as YAML text in block style, the same text everywhere.

A string stands plain where every parser takes it for this string, else in double quotes, which are JSON's with a few
characters more escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from agentd.errors import AgentdError

LONGEST_KEY = 900
"""Characters; YAML takes no more than 1024 for a key on one line."""

_LETTERS = r"A-Za-z0-9_/.+()<>$=@%\u00c0-\u024f-"
_PLAIN = re.compile(f"[A-Za-z0-9_/+(<$\u00c0-\u024f](?:[{_LETTERS} :,]*[{_LETTERS}])?")
"""Inside a plain scalar these characters are never special, but for `: `."""
_NUMBER = re.compile(r"[0-9+][0-9a-fA-FoOxX+._-]*|[yYnN]")
"""What some parser takes for a number or a boolean, whatever PyYAML says."""
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def text_of(document: object, is_text: Callable[[str], bool]) -> str:
    """`is_text`: whether YAML takes this plain scalar for a string. Raises AgentdError("yaml-name")."""
    return "".join(f"{line}\n" for line in _lines(document, is_text))


def one_line(value: object, is_text: Callable[[str], bool], *, flow: bool) -> str:
    """Mappings and lists in flow style; inside one, a comma and brackets end a plain scalar."""
    if isinstance(value, dict):
        pairs = (f"{one_line(k, is_text, flow=True)}: {one_line(v, is_text, flow=True)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(one_line(item, is_text, flow=True) for item in value) + "]"
    text = scalar(value, is_text)
    return _quoted(str(value)) if flow and isinstance(value, str) and "," in text and text[0] != '"' else text


def scalar(value: object, is_text: Callable[[str], bool]) -> str:
    """One scalar on one line. Raises TypeError for anything that YAML has no scalar for."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return str(value) if _stands_plain(value, is_text) else _quoted(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return _float(value)
    raise TypeError(f"no YAML scalar for {type(value).__name__}")


def _stands_plain(text: str, is_text: Callable[[str], bool]) -> bool:
    return _PLAIN.fullmatch(text) is not None and ": " not in text and _NUMBER.fullmatch(text) is None and is_text(text)


def _quoted(text: str) -> str:
    return _ESCAPED.sub(_escape, json.dumps(text, ensure_ascii=False))


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _float(value: float) -> str:
    text = repr(value)
    if text.lstrip("-") in ("inf", "nan"):
        return text.replace("inf", ".inf").replace("nan", ".nan")
    whole, mark, exponent = text.partition("e")
    return text if "." in whole else f"{whole}.0{mark}{exponent}"


def _lines(value: object, is_text: Callable[[str], bool]) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _pair(_key(key, is_text), inner, is_text)
    elif isinstance(value, list | tuple) and value:
        for item in value:
            lines = _lines(item, is_text)
            yield f"- {next(lines)}"
            yield from (f"  {line}" for line in lines)
    else:
        yield _empty(value) or scalar(value, is_text)


def _pair(key: str, value: object, is_text: Callable[[str], bool]) -> Iterator[str]:
    if isinstance(value, dict | list | tuple) and value:
        yield f"{key}:"
        yield from (f"  {line}" for line in _lines(value, is_text))
    else:
        yield f"{key}: {_empty(value) or scalar(value, is_text)}"


def _empty(value: object) -> str:
    if isinstance(value, dict):
        return "{}"
    return "[]" if isinstance(value, list | tuple) else ""


def _key(key: object, is_text: Callable[[str], bool]) -> str:
    text = scalar(key, is_text)
    if len(text) > LONGEST_KEY:
        raise AgentdError("yaml-name", f"cannot write the name {text[:40]}...: longer than {LONGEST_KEY} characters")
    return text
