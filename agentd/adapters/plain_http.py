"""HTTP/1.1 without TLS: one request, one answer, and the connection is closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from agentd.adapters.conversation import Conversation, TooLarge
from agentd.core.addresses import split_http_socket

_HEAD = 64 * 1024
_LINE = 8 * 1024


class NotHttp(Exception):
    """What answers is no HTTP server."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a plain request goes; with `socket` to that unix socket, whatever host and port say."""

    host: str
    port: int
    path: str
    socket: str = ""

    @property
    def name(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 80 else f"{host}:{self.port}"


def target(url: str) -> Target | None:
    """None for what a real client shall look at: TLS, credentials in the URL, anything to be escaped, nonsense."""
    unix = split_http_socket(url)
    if unix is not None:
        return Target("localhost", 80, unix[1], unix[0]) if _harmless(unix[1]) else None
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        return None
    if parts.scheme != "http" or not parts.hostname or "@" in parts.netloc:
        return None
    if not _harmless(url):
        return None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.hostname, port, path)


def _harmless(text: str) -> bool:
    """Nothing in it has to be escaped."""
    return text.isascii() and not any(c <= " " or c in '\x7f"<>\\^`{|}' for c in text)


def request(where: Target, method: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Raises ValueError for a header that would break the request."""
    lines = [f"{method} {where.path} HTTP/1.1", f"Host: {where.name}", "Connection: close", "Accept: */*"]
    for name, value in headers.items():
        if not (name + value).isprintable():
            raise ValueError(f"the header {name} has characters that cannot be sent")
        lines.append(f"{name}: {value}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


async def answer(talk: Conversation, most: int) -> tuple[int, bytes]:
    """Status and body. Raises NotHttp, BrokenOff, TooLarge."""
    status, headers = await _head(talk)
    while 100 <= status < 200:
        status, headers = await _head(talk)
    if status in (204, 304):
        return status, b""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return status, await _chunks(talk, most)
    length = headers.get("content-length")
    if length is None:
        return status, await talk.rest(most)
    size = _number(length, 10)
    if size > most:
        raise TooLarge
    return status, await talk.exactly(size)


async def _head(talk: Conversation) -> tuple[int, dict[str, str]]:
    try:
        text = (await talk.until(b"\r\n\r\n", _HEAD)).decode("latin-1")
    except TooLarge as error:
        raise NotHttp from error
    first, *lines = text.split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise NotHttp
    fields = (line.partition(":") for line in lines)
    return _number(rest[:3], 10), {name.strip().lower(): value.strip() for name, _, value in fields}


async def _chunks(talk: Conversation, most: int) -> bytes:
    body = b""
    while True:
        size = _number((await talk.until(b"\r\n", _LINE)).partition(b";")[0].strip().decode("latin-1"), 16)
        if len(body) + size > most:
            raise TooLarge
        if size == 0:
            return body
        body += await talk.exactly(size)
        await talk.until(b"\r\n", _LINE)


def _number(text: str, base: int) -> int:
    try:
        value = int(text, base)
    except ValueError:
        raise NotHttp from None
    if value < 0:
        raise NotHttp
    return value
