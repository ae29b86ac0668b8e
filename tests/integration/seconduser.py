"""A user manager of uid 1000 in the sandbox, whose own belongs to root: what an ordinary user may and may not do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

UID = 1000
GROUP = Path(f"/sys/fs/cgroup/user.slice/user-{UID}.slice/user@{UID}.service")
ROOT = Path(__file__).resolve().parents[2]
MANAGERS = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
SECONDS = 30.0
ENTER = 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class SecondUser:
    home: Path
    runtime: Path
    source: Path
    """The checkout, where they can read it."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.runtime}/bus",
            "PYTHONPATH": f"{self.source}:{self.source}/tests",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def argv(self, *command: str) -> list[str]:
        return ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", *command]

    def run(self, *command: str) -> str:
        """Standard output of a command of theirs."""
        argv = self.argv(*command)
        done = subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, timeout=120, check=False, cwd="/"
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def python(self, module: str, *arguments: str) -> str:
        interpreter = Path(sys.executable)
        if interpreter.is_relative_to(ROOT):
            interpreter = self.source / interpreter.relative_to(ROOT)
        return self.run(str(interpreter), "-m", module, *arguments)

    def write_units(self, units: Sequence[tuple[str, str]]) -> None:
        folder = self.home / ".config/systemd/user"
        for name, text in units:
            (folder / name).write_text(text)
        self.run("systemctl", "--user", "daemon-reload")


@contextmanager
def second_user(folder: Path) -> Iterator[SecondUser]:
    """Up and ready. Its manager and whatever it started is gone afterwards."""
    user = SecondUser(folder / "home", Path(f"/run/user/{UID}"), folder / "source")
    for path in (user.home / ".config/systemd/user", user.runtime, user.source, GROUP):
        path.mkdir(parents=True, exist_ok=True)
    # A checkout in somebody's home is closed to others; the sandbox has its own mounts.
    bound = [_bind(ROOT, user.source)]
    for name, line in (("passwd", f"second:x:{UID}:{UID}::{user.home}:/bin/sh\n"), ("group", f"second:x:{UID}:\n")):
        known = Path("/etc", name)
        if f":{UID}:" not in known.read_text():  # dbus-daemon wants everybody to have a name
            (folder / name).write_text(known.read_text() + line)
            bound.append(_bind(folder / name, known))
    user.runtime.chmod(0o700)
    _give(user.home, user.runtime, GROUP)
    os.chown(GROUP / "cgroup.procs", UID, UID)
    os.chown(GROUP / "cgroup.subtree_control", UID, UID)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        address = user.home / "ready"
        ready.bind(str(address))
        address.chmod(0o777)
        ready.settimeout(SECONDS)
        program = next(path for path in MANAGERS if Path(path).exists())
        argv = ["/bin/sh", "-c", ENTER, "sh", str(GROUP), *user.argv(program, "--user")]
        environment = {**user.environment, "NOTIFY_SOCKET": str(address)}
        with subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, cwd="/") as manager:
            try:
                while b"READY=1" not in ready.recv(4096):
                    pass
                yield user
            finally:
                (GROUP / "cgroup.kill").write_text("1")
                manager.wait(SECONDS)
    for place in bound:
        subprocess.run(["umount", str(place)], check=True, timeout=SECONDS)
    shutil.rmtree(user.runtime)
    shutil.rmtree(folder)


def _bind(what: Path, place: Path) -> Path:
    subprocess.run(["mount", "--bind", str(what), str(place)], check=True, timeout=SECONDS)
    return place


def _give(*folders: Path) -> None:
    for folder in folders:
        os.chown(folder, UID, UID)
        for path in folder.rglob("*") if folder != GROUP else ():
            os.chown(path, UID, UID)
