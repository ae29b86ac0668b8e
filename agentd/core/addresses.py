"""The addresses that a configuration may name: a service's url, agentd's own listening address, a unit's name."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

SCHEMES = ("http", "https", "tcp", "redis", "unix", "http+unix")
LISTEN_FORM = '127.0.0.1:PORT, [::1]:PORT, or "" for none'
URL_FORM = (
    "http://HOST:PORT, https://HOST:PORT, tcp://HOST:PORT, redis://HOST:PORT, unix:///PATH or http+unix:///PATH.sock"
)
LONGEST_SOCKET = 107
"""Bytes of a unix socket's path that the kernel takes."""
UNIT_FORM = 'a service unit like "vllm-qwen.service"'

_DEFAULT_PORTS = {"http": 80, "https": 443, "redis": 6379}
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_DOTTED_NUMBER = re.compile(r"[0-9.]+")
_LISTEN = re.compile(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\]):([0-9]{1,5})")
_HTTP_SOCKET = re.compile(r"http\+unix://(/(?:[^/?#]+/)*?[^/?#]+\.sock)((?:[/?].*)?)")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]*)?\.service")


class AddressError(ValueError):
    """Not a usable address; the text says why, without repeating it."""


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed url. `port` is the scheme's own where none was written (then `explicit_port` is False).

    Of a unix url, `path` is the socket, `host` is "" and `port` is 0. Of an http+unix url, `socket` is the socket, and
    `path` what is asked for there.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    explicit_port: bool = True
    socket: str = ""

    @property
    def http(self) -> bool:
        return self.scheme in ("http", "https", "http+unix")

    @property
    def redis(self) -> bool:
        return self.scheme in ("redis", "unix")

    @property
    def loopback(self) -> bool:
        return self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")


def parse_url(text: str) -> Address:
    """The parts of a service's url. Raises AddressError."""
    if any(character.isspace() or not character.isprintable() for character in text):
        raise AddressError("must not contain blanks or control characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise AddressError("is not a url, or its port is not between 1 and 65535") from None
    if parts.scheme not in SCHEMES or "://" not in text:
        raise AddressError("is not a url of a known scheme")
    if parts.username is not None or parts.password is not None:
        raise AddressError("must not contain a user name or a password")
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        raise AddressError("must not have a query or a fragment")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/") or parts.path == "/":
            raise AddressError("must be unix:// and an absolute path")
        return Address("unix", "", 0, parts.path)
    if parts.scheme == "http+unix":
        return _http_socket(text)
    if port is None and parts.netloc.endswith(":"):
        raise AddressError("has an empty port")
    if port == 0 or (port is None and parts.scheme not in _DEFAULT_PORTS):
        raise AddressError("needs a port between 1 and 65535")
    if not parts.hostname or not _valid_host(parts.hostname):
        raise AddressError("has no valid host")
    path = parts.path.rstrip("/")
    if path and not parts.scheme.startswith("http"):
        raise AddressError(f"must not have a path after {parts.scheme}://HOST:PORT")
    return Address(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme], path, port is not None)


def split_http_socket(url: str) -> tuple[str, str] | None:
    """Socket and path of an http+unix url, None for any other: the socket ends with the first name in .sock."""
    match = _HTTP_SOCKET.fullmatch(url)
    return (match[1], match[2] or "/") if match is not None else None


def _http_socket(text: str) -> Address:
    found = split_http_socket(text)
    if found is None:
        raise AddressError("must be http+unix:// and an absolute path to a socket whose name ends in .sock")
    if len(found[0].encode()) > LONGEST_SOCKET:
        raise AddressError(f"has a socket whose path is longer than {LONGEST_SOCKET} bytes")
    return Address("http+unix", "", 0, found[1].rstrip("/"), socket=found[0])


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of a loopback listening address. Raises AddressError."""
    match = _LISTEN.fullmatch(text)
    if match is None:
        raise AddressError("is not an IP address with a port")
    host, port = match[1] or match[2], int(match[3])
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise AddressError("is not an IP address with a port") from None
    if not loopback:
        raise AddressError("is not a loopback address")
    if not 1 <= port <= 65535:
        raise AddressError("has a port that is not between 1 and 65535")
    return host, port


def check_unit(name: str) -> None:
    """systemd's own rules for unit names, for services that can be started. Raises AddressError."""
    if not name.endswith(".service"):
        raise AddressError("does not end in .service")
    match = _UNIT.fullmatch(name)
    if match is None or len(name) > 255:
        raise AddressError("is not a unit name that systemd accepts")
    if match[1] == "@":
        raise AddressError("is a template, an instance is needed (NAME@INSTANCE.service)")


def _valid_host(host: str) -> bool:
    if ":" in host or _DOTTED_NUMBER.fullmatch(host):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True
    return len(host) <= 253 and _HOST.fullmatch(host) is not None
