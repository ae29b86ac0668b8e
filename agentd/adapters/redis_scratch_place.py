"""What a scratch server starts from: its program, a private directory and its configuration. Blocks, shortly."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from agentd import paths
from agentd.errors import AgentdError

PROGRAMS = ("redis-server", "valkey-server")
LOADING = ("dbfilename", "appenddirname", "appendfilename", "aof-load-truncated", "databases", "proto-max-bulk-len")
"""Settings that decide which files are read and whether they can be."""
_DATABASES = "1024"
"""Where the caller does not say: a data set that uses more of them than there are is refused."""
_ALSO = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_LONGEST_SOCKET = 107
"""Bytes of a unix socket's path."""


def find_program(wanted: str = "") -> str:
    """Its path. `wanted` is a name or a path; a path where nothing is (a server that was started by its name says a
    wrong one) stands for its name. Raises AgentdError("drill-no-server")."""
    if wanted.startswith("/") and _usable(wanted):
        return wanted
    for name in (os.path.basename(wanted),) if wanted else PROGRAMS:  # noqa: PTH119
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_ALSO}")
        if found is not None:
            return found
    raise AgentdError(
        "drill-no-server",
        f"cannot start a server on the copy: there is no {wanted or ' or '.join(PROGRAMS)} on this machine",
        hint="install it; it need not be started",
    )


def _usable(path: str) -> bool:
    """A server tells where its program is; root runs it only when root put it there."""
    if not os.access(path, os.X_OK) or not Path(path).is_file():
        return False
    about = Path(path).stat()
    return os.geteuid() != 0 or (about.st_uid == 0 and not about.st_mode & 0o022)


def private_folder() -> Path:
    """A new directory, 0700, with a path short enough for a socket in it. Raises AgentdError("drill-failed")."""
    problem = ""
    for parent in _parents():
        try:
            folder = Path(tempfile.mkdtemp(prefix="agentd-drill-", dir=parent))
        except OSError as error:
            problem = f"{parent}: {(error.strerror or str(error)).lower()}"
            continue
        if len(os.fsencode(folder / "s")) <= _LONGEST_SOCKET:
            return folder
        folder.rmdir()
        problem = f"{parent}: its path is too long for a socket"
    raise AgentdError("drill-failed", f"cannot make a directory for the server's socket ({problem})", hint="set TMPDIR")


def _parents() -> Iterator[Path]:
    yield paths.runtime_dir()
    yield paths.user_runtime_dir()
    if os.geteuid() == 0:
        yield paths.runtime_dir(system=True)
    yield Path(tempfile.gettempdir())
    yield Path("/tmp")


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def config_text(directory: str, socket: str, appendonly: bool, config: Mapping[str, str], *, debug: bool) -> str:
    """The whole redis.conf: no TCP, no saves, no rewrites, no password."""
    lines = {
        "port": "0",
        "unixsocket": socket,
        "unixsocketperm": "700",
        "dir": os.path.abspath(directory),  # noqa: PTH100 - no link is to be resolved
        "daemonize": "no",
        "logfile": "",
        "loglevel": "notice",
        "save": "",
        "appendonly": "yes" if appendonly else "no",
        "appendfsync": "no",
        "auto-aof-rewrite-percentage": "0",
        "maxclients": "16",
        "databases": _DATABASES,
        **{name: config[name] for name in LOADING if name in config},
    }
    if debug:
        lines["enable-debug-command"] = "yes"
    return "".join(f"{name} {quoted(value)}\n" for name, value in lines.items())


def quoted(value: str) -> str:
    """As Redis reads it: everything but plain characters as \\xHH."""
    data = os.fsencode(value)
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in data) + '"'
