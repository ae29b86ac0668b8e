"""What went wrong between us and a Redis, in our words. The library's errors are known by name: it is not imported."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence

from agentd.adapters.conversation import TooLarge
from agentd.core.redact import HIDDEN, redact
from agentd.errors import AgentdError

LONGEST = 300
"""Characters of a server's own words that are passed on."""

NOT_REDIS = "what answers there is not Redis"

_PASSWORD_HINT = "see user, password_file and password_credential of the store"
_HINTS: Mapping[str, str] = {
    "redis-timeout": "it hangs, or is stopped, or the machine is too busy",
    "redis-auth": _PASSWORD_HINT,
    "redis-not-redis": "see the address of the store",
}


class Trouble(Exception):
    """A question that failed: `kind` as in RedisAdmin, `reason` a part of a sentence.

    `quoted`: the reason is the server's own text, in which a password may stand.
    """

    def __init__(self, kind: str, reason: str, *, hint: str = "", quoted: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.hint = hint or _HINTS.get(kind, "")
        self.quoted = quoted

    def told(self, where: str, command: str, *, words: str = "") -> AgentdError:
        """For the user. `where`: the address without secrets; `words` replace a quoted reason."""
        reason = plain(words or self.reason) if self.quoted else self.reason
        if self.kind in ("redis-denied", "redis-refused"):
            return AgentdError(self.kind, f"{where} refuses {command}: {reason}", hint=self.hint)
        if self.kind == "redis-unknown-command":
            return AgentdError(self.kind, f"{where} does not know {command}: {reason}", hint=self.hint)
        return AgentdError(self.kind, f"cannot ask {where}: {reason}", hint=self.hint)


def too_slow(seconds: float) -> Trouble:
    return Trouble("redis-timeout", f"no answer within {seconds:g} s")


def trouble(error: Exception, command: Sequence[str]) -> Trouble:
    """Of an error that redis-py or a socket raised for this command."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OSError):
        return _broken(error)
    if "AuthenticationError" in names:
        return _not_let_in(str(error), command)
    if "BusyLoadingError" in names:
        return Trouble("redis-loading", "it is still loading its data", hint="wait until it has loaded")
    if "NoPermissionError" in names:
        return _denied(str(error), command)
    if "ResponseError" in names:
        return _answered(str(error), command)
    if "ConnectionError" in names or "TimeoutError" in names:
        return _cut(error)
    return Trouble("redis-not-redis", f"{NOT_REDIS}, or it says too much" if isinstance(error, TooLarge) else NOT_REDIS)


def _not_let_in(text: str, command: Sequence[str]) -> Trouble:
    if "without any password" in text or "no password is set" in text:
        return Trouble("redis-auth", "a password is configured here, but the server has none for its default user")
    if command[0] == "AUTH":
        who = f"or user ({command[1]}) " if len(command) > 2 else ""
        return Trouble("redis-auth", f"wrong password {who}".rstrip())
    return Trouble("redis-auth", "it wants a password")


def _denied(text: str, command: Sequence[str]) -> Trouble:
    """NOPERM: the ACL does not hold this command for our user."""
    rule = "|".join(command[:2]).lower() if command[0] == "CONFIG" else command[0].lower()
    return Trouble("redis-denied", text, hint=f"allow it in Redis's ACL: +{rule}", quoted=True)


def _answered(text: str, command: Sequence[str]) -> Trouble:
    """Any other error answer. What AUTH got is never quoted, and neither are the arguments of an unknown command."""
    if re.match(r"(ERR )?unknown command", text, re.IGNORECASE):
        hint = "rename-command in the server's configuration file takes it away"
        return Trouble("redis-unknown-command", "it was renamed or switched off", hint=hint)
    if text.startswith("DENIED"):
        hint = "set a password in Redis, or reach it at its loopback address or its socket"
        return Trouble("redis-denied", "it is in protected mode", hint=hint)
    if command[0] == "AUTH":
        old = "wrong number of arguments" in text.lower()
        return Trouble("redis-auth", "it knows no users, only a password" if old else "it does not take our password")
    return Trouble("redis-refused", text, quoted=True)


def _cut(error: Exception) -> Trouble:
    """redis-py's ConnectionError or TimeoutError, which hides the system's error."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):
        return _broken(cause)
    if isinstance(cause, ValueError | OverflowError):
        return Trouble("redis-unreachable", "that is no address to connect to")
    if "max number of clients" in str(error):
        hint = "raise maxclients in Redis, or close other clients"
        return Trouble("redis-refused", "it has no room for another client (maxclients)", hint=hint)
    return Trouble("redis-unreachable", "the server closed the connection")


def _broken(error: OSError) -> Trouble:
    hint = ""
    if isinstance(error, TimeoutError):
        return Trouble("redis-timeout", "no answer from that address")
    if isinstance(error, PermissionError):
        hint = (
            "the socket lets in only its owner and group: see unixsocketperm in Redis, and the groups of agentd's user"
        )
    elif isinstance(error, ConnectionRefusedError | FileNotFoundError):
        hint = "is Redis running, and is this its address?"
    return Trouble("redis-unreachable", _system_word(error), hint=hint)


def _system_word(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name is unknown"
    if error.errno:
        return os.strerror(error.errno).lower()
    if "Connect call failed" in str(error):  # several addresses, each with its own error
        return "connection refused"
    return "the connection broke"


def without(secret: str, text: str) -> str:
    """The text that a server wrote, without this secret."""
    as_read = secret.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text.replace(as_read, HIDDEN) if as_read else text


def plain(text: str) -> str:
    """A server's words on one line, without control characters and what looks like a secret."""
    words = redact("".join(c if c.isprintable() else " " for c in text)).strip()
    words = words.removeprefix("ERR ")
    return words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
