"""Values that go into a unit file as they are: limits, addresses, directives. Checked so far as one can alone."""

from __future__ import annotations

import re
from ipaddress import ip_interface

from agentd.core.quantities import QuantityError, format_bytes, parse_bytes

MEMORY_FORM = 'a size like "14G", a share of the memory like "80%", or "infinity"'
QUOTA_FORM = 'CPU time like "200%" (two CPUs)'
DIRECTIVE_NAME_FORM = 'a name like "MemoryMax" or "ProtectSystem"'
DIRECTIVE_FORM = 'a value in quotes, such as "yes" or "100", or a list of them (a line each)'
NETWORK_FORM = 'an address or network like "192.168.1.1" or "10.0.0.0/8"'

PATH_FORM = "an absolute path, or one that starts with ~/, %h/, %t/, %C/, %S/ or %L/"

_NAME = re.compile(r"[A-Z][A-Za-z0-9]+")
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,2})?)%")
_PATH = re.compile(r"/|~/|%[htCSL]/")
_QUOTA = re.compile(r"[1-9]\d{0,5}%")


def memory_limit(value: object) -> str:
    """The limit as systemd reads it. Raises QuantityError."""
    if isinstance(value, str) and value.strip() in ("", "infinity"):
        return value.strip()
    if isinstance(value, str) and (share := _SHARE.fullmatch(value.strip())):
        if not 0 < float(share[1]) <= 100:
            raise QuantityError("is not between 0% and 100%")
        return value.strip()
    return format_bytes(parse_bytes(value))


def quota(value: object) -> str:
    """Raises QuantityError."""
    if not isinstance(value, str):
        raise QuantityError("expected a string")
    if value and not _QUOTA.fullmatch(value):
        raise QuantityError("is not a share of CPU time")
    return value


def directive_name(text: str) -> str:
    """Raises QuantityError."""
    if not _NAME.fullmatch(text):
        raise QuantityError("is not the name of a directive")
    return text


def directive(value: object) -> tuple[str, ...]:
    """The values, a line each; one empty value resets. Raises QuantityError."""
    if isinstance(value, str):
        return (_line(value),)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise QuantityError("expected a string or a list of strings")
    if not value:
        raise QuantityError("must not be empty")
    return tuple(map(_line, value))


def path(text: str) -> str:
    """Raises QuantityError."""
    if not _PATH.match(text):
        raise QuantityError("is not an absolute path")
    return text


def network(text: str) -> str:
    """Raises QuantityError."""
    try:
        if "%" not in text:  # A zone: nothing that systemd's filter knows.
            ip_interface(text)
            return text
    except ValueError:
        pass
    raise QuantityError("is not an address or a network")


def _line(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise QuantityError("must not contain line breaks or other control characters")
    if text.endswith("\\"):
        # systemd would read the next line as a part of this one.
        raise QuantityError("must not end with a backslash")
    return text.strip()
