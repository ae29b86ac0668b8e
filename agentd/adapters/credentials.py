"""A password from its file, or from a credential that systemd hands to agentd; read anew each time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from agentd.errors import AgentdError

LARGEST = 4096
"""Bytes; a longer file is not one password."""

_DIRECTORY = "CREDENTIALS_DIRECTORY"


def password_source(file: str, credential: str) -> Callable[[], str] | None:
    """What reads the password; None when neither is given, and `file` comes before `credential`.

    It blocks: call it in a thread. Raises AgentdError("redis-password"), which names the path and never the content.
    """
    if file:
        return lambda: _read(Path(file))
    if credential:
        return lambda: _read(_credential(credential))
    return None


def open_to_others(path: str) -> bool:
    """May every user of this machine read the file? False when it cannot be looked at. Blocks."""
    try:
        return bool(Path(path).stat().st_mode & stat.S_IROTH)
    except (OSError, ValueError):
        return False


def _credential(name: str) -> Path:
    hint = f"LoadCredential={name}:/path/of/the/file in agentd's own unit hands it over"
    directory = os.environ.get(_DIRECTORY, "")
    if not directory:
        message = f"cannot read the credential {name}: agentd was started without credentials"
        raise AgentdError("redis-password", message, hint=hint)
    path = Path(directory) / name
    if path.parent != Path(directory) or name in (".", ".."):
        raise AgentdError("redis-password", f"cannot read the credential {name}: that is not the name of one")
    if not path.exists():
        raise AgentdError("redis-password", f"cannot read the credential {name}: {path} does not exist", hint=hint)
    return path


def _read(path: Path) -> str:
    """The one line of the file. Bytes that are not UTF-8 stay what they are (surrogateescape)."""
    try:
        content = _content(path)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
        problem = f"cannot read the password in {path}: {reason}"
    else:
        password = content.rstrip(b"\r\n")
        wrong = _wrong(content, password)
        if not wrong:
            return password.decode("utf-8", "surrogateescape")
        problem = f"cannot use the password in {path}: {wrong}"
    raise AgentdError("redis-password", problem, hint="the file holds the password alone, on one line")


def _content(path: Path) -> bytes:
    """At most one byte more than is allowed. Not blocking at a pipe, of which nobody knows when it ends."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        return os.read(descriptor, LARGEST + 1)
    finally:
        os.close(descriptor)


def _wrong(content: bytes, password: bytes) -> str:
    if len(content) > LARGEST:
        return f"the file is larger than {LARGEST} bytes"
    if not password:
        return "the file is empty"
    return "the file has more than one line" if b"\n" in password else ""
