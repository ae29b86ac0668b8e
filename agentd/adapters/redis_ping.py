"""Redis's AUTH and PING as they are on the wire: three lines, for which the library takes 7 MB and 3 ms."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from socket import socket
from urllib.parse import unquote, urlsplit

from agentd.adapters.conversation import Conversation, TooLarge, connected, connected_unix

_LINE = 4096
_KNOWN: Mapping[str, str] = {
    "NOAUTH": "wrong or missing password",
    "WRONGPASS": "wrong or missing password",
    "LOADING": "it is still loading its data",
}


class NotReady(Exception):
    """Redis's own word, or that it is not Redis which answers."""


@dataclass(frozen=True, slots=True)
class Address:
    """Of a URL; `path` for a unix socket."""

    host: str = ""
    port: int = 6379
    path: str = ""
    user: str = ""
    password: str = ""

    def connect(self) -> AbstractAsyncContextManager[socket]:
        return connected_unix(self.path) if self.path else connected(self.host, self.port)


def address(url: str) -> Address | None:
    """None for what the library shall look at: TLS, options in the query, nonsense."""
    try:
        parts = urlsplit(url)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if parts.query or parts.fragment:
            return None
        if parts.scheme == "unix" and parts.path and not parts.hostname:
            return Address(path=unquote(parts.path), user=user, password=password)
        if parts.scheme == "redis" and parts.hostname:
            return Address(parts.hostname, parts.port or 6379, "", user, password)
    except ValueError:
        return None
    return None


async def ping(talk: Conversation, where: Address) -> None:
    """Raises NotReady, BrokenOff, OSError."""
    words = [w for w in (where.user, where.password) if w]
    await talk.say((_command("AUTH", *words) if where.password else b"") + _command("PING"))
    if where.password:
        await _line(talk)
    if await _line(talk) != "PONG":
        raise NotReady("the answer is not Redis's")


async def _line(talk: Conversation) -> str:
    """A simple string; an error is raised."""
    try:
        line = (await talk.until(b"\r\n", _LINE)).decode("utf-8", "replace")
    except TooLarge as error:
        raise NotReady("the answer is not Redis's") from error
    if line.startswith("+"):
        return line[1:]
    if not line.startswith("-"):
        raise NotReady("the answer is not Redis's")
    word, _, text = line[1:].partition(" ")
    if word == "ERR" and "AUTH" in text:
        raise NotReady(_KNOWN["NOAUTH"])
    raise NotReady(_KNOWN.get(word) or text.lower() or word)


def _command(*words: str) -> bytes:
    encoded = [word.encode() for word in words]
    parts = (b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
    return b"*%d\r\n" % len(encoded) + b"".join(parts)
