"""Runs inside a profile's sandbox: tries what it should not be able to do, and prints what came of each as JSON.

"" for what went through, else the name of the errno. Standard library alone.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path

HOME = Path.home()
RUNTIME = Path(os.environ["XDG_RUNTIME_DIR"])
CGROUP = Path("/sys/fs/cgroup/from-inside")
CLONE_NEWUSER = 0x10000000


def tried(act: Callable[[], object]) -> str:
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(path))


def family(number: int, kind: int = socket.SOCK_DGRAM) -> None:
    socket.socket(number, kind).close()


def libc(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def write(path: Path) -> None:
    path.write_text("written from inside\n")


ACTS: dict[str, Callable[[], object]] = {
    "session bus": lambda: connect(RUNTIME / "bus"),
    "manager": lambda: connect(RUNTIME / "systemd/private"),
    "agentd": lambda: connect(RUNTIME / "agentd/agentd.sock"),
    "read a key": lambda: (HOME / ".ssh/id").read_text(),
    "read agentd's configuration": lambda: list((HOME / ".config/agentd").iterdir()),
    "write /usr": lambda: write(Path("/usr/from-inside")),
    "write a cgroup": lambda: CGROUP.mkdir(),
    "write home": lambda: write(HOME / "from-inside"),
    "write a login script": lambda: write(HOME / ".profile"),
    "write a unit": lambda: write(HOME / ".config/systemd/user/from-inside.service"),
    "write the model cache": lambda: write(HOME / ".cache/huggingface/from-inside"),
    "write the proxy's cache": lambda: write(HOME / ".cache/litellm/from-inside"),
    "write a configured path": lambda: write(HOME / "a b/from-inside"),
    "write /tmp": lambda: write(Path("/tmp/from-inside")),
    "write and execute": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close(),
    "namespace": lambda: libc("unshare", CLONE_NEWUSER),
    "netlink": lambda: family(socket.AF_NETLINK, socket.SOCK_RAW),
    "packets": lambda: family(socket.AF_PACKET, socket.SOCK_RAW),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 5),
    "tcp": lambda: socket.create_server(("127.0.0.1", 0)).close(),
}

if __name__ == "__main__":
    found: dict[str, object] = {name: tried(act) for name, act in ACTS.items()}
    print(
        json.dumps(
            {**found, "devices": sorted(path.name for path in Path("/dev").iterdir()), "environment": dict(os.environ)}
        )
    )
