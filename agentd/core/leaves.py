"""One value of the configuration against one type of the schema, with our own words for what is wrong.

The schema's annotations are the only table of what is allowed. msgspec checks them once more when the settings are
built; it stops at the first error and speaks of JSON paths, so it is not what users read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from msgspec import Meta

from agentd.core import addresses, redis_leaves, unit_values
from agentd.core.addresses import AddressError
from agentd.core.quantities import DURATION_FORM, SIZE_FORM, QuantityError, format_seconds, parse_bytes, parse_seconds
from agentd.core.schema_types import Bytes, Directive, MemoryLimit, Quota, Seconds

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
NAME_FORM = "lower-case letters, digits, dot, dash and underscore, the first a letter or digit, at most 64"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHOWN = 60
_UNIT_VALUES: Mapping[Any, tuple[Callable[[object], object], str]] = {
    MemoryLimit: (unit_values.memory_limit, unit_values.MEMORY_FORM),
    Quota: (unit_values.quota, unit_values.QUOTA_FORM),
    Directive: (unit_values.directive, unit_values.DIRECTIVE_FORM),
}
Parsed = TypeVar("Parsed")


class Invalid(Exception):
    """The value is wrong. `allowed` may be empty; `secret` forbids to show the value."""

    def __init__(self, message: str, allowed: str = "", *, secret: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.allowed = allowed
        self.secret = secret


def convert(hint: Any, value: object) -> object:
    """The value in the type that the schema wants (seconds, bytes, text, ...). Raises Invalid."""
    base, meta = unwrap(hint)
    if base is Seconds:
        return _bounded(_quantity(parse_seconds, DURATION_FORM, value), meta, format_seconds)
    if base is Bytes:
        return _bounded(_quantity(parse_bytes, SIZE_FORM, value), meta)
    if base in _UNIT_VALUES:
        return _quantity(*_UNIT_VALUES[base], value)
    if get_origin(base) is Literal:
        return _choice(value, get_args(base))
    if get_origin(base) is tuple:
        return _items(value, get_args(base)[0], meta)
    if base is bool:
        if not isinstance(value, bool):
            raise Invalid("expected true or false")
        return value
    if base is int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Invalid("expected an integer", _range(meta))
        return _bounded(value, meta)
    if base is float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Invalid("expected a number", _range(meta))
        return _bounded(float(value), meta)
    return _text(value, meta)


def unwrap(hint: Any) -> tuple[Any, Meta]:
    """A type and what its annotation says of it."""
    if get_origin(hint) is Annotated:
        base, *rest = get_args(hint)
        return base, next((m for m in rest if isinstance(m, Meta)), Meta())
    return hint, Meta()


def form_of(hint: Any) -> str:
    """What may stand here, in a few words."""
    base, meta = unwrap(hint)
    if base is Seconds:
        return DURATION_FORM
    if base is Bytes:
        return SIZE_FORM
    if get_origin(base) is Literal:
        return quoted(get_args(base))
    form = (meta.extra or {}).get("form", "")
    return _FORMS[form][1] if form else "a string" if base is str else ""


def is_path(hint: Any) -> bool:
    """Of a path, or of a list of paths."""
    base, meta = unwrap(hint)
    if get_origin(base) is tuple:
        return is_path(get_args(base)[0])
    return (meta.extra or {}).get("form") in ("path", "unit-path")


def shown(value: object) -> str:
    """A value as TOML writes it, cut to a length that fits a message."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a very large number"
    text = shown_whole(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def shown_whole(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, str):
        # JSON's escapes are TOML's, except that JSON may leave a DEL as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown_whole(key)} = {shown_whole(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown_whole(item) for item in value) + "]"
    return value.isoformat() if isinstance(value, date | time) else str(value)


def suggest(word: str, known: Sequence[str]) -> str:
    """', did you mean "x"?' or nothing."""
    from difflib import get_close_matches  # only a wrong configuration pays for it

    close = get_close_matches(word, known, n=1)
    return f', did you mean "{close[0]}"?' if close else ""


def quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def _quantity(parse: Callable[[object], Parsed], form: str, value: object) -> Parsed:
    try:
        return parse(value)
    except QuantityError as error:
        raise Invalid(str(error), form) from None


def _bounded(value: float, meta: Meta, show: Callable[[Any], str] = str) -> float:
    if meta.gt is not None and not value > meta.gt:
        raise Invalid("must be more than 0")
    if (meta.ge is not None and value < meta.ge) or (meta.le is not None and value > meta.le):
        raise Invalid("is out of range", _range(meta, show))
    return value


def _range(meta: Meta, show: Callable[[Any], str] = str) -> str:
    if meta.ge is None:
        return ""
    return f"at least {show(meta.ge)}" if meta.le is None else f"{show(meta.ge)} to {show(meta.le)}"


def _choice(value: object, words: Sequence[str]) -> object:
    if not isinstance(value, str):
        raise Invalid("expected a string", quoted(words))
    if value not in words:
        raise Invalid(f"unknown value{suggest(value, words)}", quoted(words))
    return value


def _items(value: object, hint: Any, meta: Meta) -> object:
    kind = "integers" if unwrap(hint)[0] is int else "strings"
    if not isinstance(value, list):
        raise Invalid(f"expected a list of {kind}", f"[{shown(value)}]" if isinstance(value, str | int) else "")
    if not value and meta.min_length:
        raise Invalid("must not be empty")
    items = []
    for number, item in enumerate(value, 1):
        try:
            items.append(convert(hint, item))
        except Invalid as error:
            raise Invalid(f"item {number}: {error.message}", error.allowed, secret=error.secret) from None
    if (meta.extra or {}).get("unique"):
        twice = next((item for item in items if items.count(item) > 1), None)
        if twice is not None:
            raise Invalid(f"lists {shown(twice)} twice")
    return items


def _text(value: object, meta: Meta) -> str:
    extra = meta.extra or {}
    check, form = _FORMS.get(extra.get("form", ""), (None, ""))
    # A password may stand where the name of its credential is wanted.
    secret = bool(extra.get("secret")) or extra.get("form") == "credential"
    if not isinstance(value, str):
        raise Invalid("expected a string", form, secret=secret)
    if not value and meta.min_length:
        raise Invalid("must not be empty")
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        # These end up in drop-ins and logs, where a line break would start a directive of its own.
        raise Invalid("must not contain control characters", secret=secret)
    if check is None:
        return value
    try:
        return check(value)
    except (AddressError, QuantityError) as error:
        raise Invalid(str(error), form, secret=secret or _holds_password(value)) from None


def _holds_password(url: str) -> bool:
    return "://" in url and ("@" in url or "password=" in url)


def _unit(text: str) -> str:
    addresses.check_unit(text)
    return text


def _url(text: str) -> str:
    if text:
        addresses.parse_url(text)
    return text.rstrip("/")


def _http_path(text: str) -> str:
    if not text.startswith("/") and not addresses.parse_url(text).http:
        raise AddressError("is not an http url")
    if " " in text:
        raise AddressError("must not contain blanks")
    return text


def _listen(text: str) -> str:
    if text:
        addresses.parse_listen(text)
    return text


def _path(text: str) -> str:
    if text and not text.startswith(("/", "~/")):
        raise AddressError("is not an absolute path")
    return text


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise AddressError("is not the name of an environment variable")
    return text


_FORMS: dict[str, tuple[Callable[[str], str], str]] = {
    "unit": (_unit, addresses.UNIT_FORM),
    "url": (_url, addresses.URL_FORM),
    "http-path": (_http_path, 'a path like "/health", or a full http:// url'),
    "listen": (_listen, addresses.LISTEN_FORM),
    "path": (_path, "an absolute path, or one that starts with ~/"),
    "unit-path": (unit_values.path, unit_values.PATH_FORM),
    "network": (unit_values.network, unit_values.NETWORK_FORM),
    "directive": (unit_values.directive_name, unit_values.DIRECTIVE_NAME_FORM),
    "save-points": (redis_leaves.save_points, redis_leaves.SAVE_FORM),
    "credential": (redis_leaves.credential, redis_leaves.CREDENTIAL_FORM),
    "variable": (_variable, 'a name like "VLLM_API_KEY"'),
}
