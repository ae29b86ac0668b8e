"""Units of a test's own in a private user manager, and the accidents that can happen to it.

Only inside `agentctl sandbox --bare`: AGENTD_SANDBOX=1 says so, and nothing here runs without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest


class UserUnits:
    """Unit files with names that begin with `prefix`; `remove()` stops them and takes them away."""

    def __init__(self, prefix: str) -> None:
        if os.environ.get("AGENTD_SANDBOX") != "1":
            pytest.fail("cannot run here: these tests want `agentctl sandbox --bare -- pytest tests/integration`")
        self.prefix = prefix
        self.folder = Path.home() / ".config/systemd/user"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files: list[Path] = []

    def write(self, name: str, text: str) -> str:
        """The unit's full name. Not loaded yet: a daemon-reload has to follow if systemd knew the name before."""
        unit = f"{self.prefix}-{name}"
        path = self.folder / unit
        path.write_text(text)
        self._files.append(path)
        return unit

    def put(self, path: str, text: str) -> Path:
        """Any file below the unit directory, such as a drop-in; its folder is made, and goes with it."""
        file = self.folder / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        if file not in self._files:
            self._files.append(file)
        return file

    def service(self, name: str, *lines: str) -> str:
        return self.write(f"{name}.service", "[Service]\n" + "\n".join(lines) + "\n")

    def mask(self, name: str) -> str:
        path = self.folder / f"{self.prefix}-{name}.service"
        path.symlink_to("/dev/null")
        self._files.append(path)
        return path.name

    def alias(self, name: str, unit: str) -> str:
        path = self.folder / f"{self.prefix}-{name}.service"
        path.symlink_to(unit)
        self._files.append(path)
        return path.name

    def remove(self) -> None:
        systemctl("kill", "--signal=KILL", f"{self.prefix}-*", check=False)
        systemctl("stop", f"{self.prefix}-*", check=False)
        systemctl("reset-failed", f"{self.prefix}-*", check=False)
        for path in self._files:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in self._files} - {self.folder}:
            with contextlib.suppress(OSError):  # Somebody else has a file there.
                folder.rmdir()
        systemctl("daemon-reload")


def systemctl(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["systemctl", "--user", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert not check or done.returncode == 0, f"systemctl {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


async def systemctl_aside(*arguments: str) -> None:
    """systemctl while the loop runs on."""
    process = await asyncio.create_subprocess_exec("systemctl", "--user", *arguments)
    assert await process.wait() == 0, f"systemctl {arguments[0]} failed"


def manager_pid() -> int:
    """The `systemd --user` of this sandbox."""
    return _the_one(
        lambda argv: argv[:1] in (["/lib/systemd/systemd"], ["/usr/lib/systemd/systemd"]) and "--user" in argv
    )


def bus_pid() -> int:
    """The dbus-daemon that systemd activated."""
    return _the_one(lambda argv: argv[0].endswith("dbus-daemon") and "--systemd-activation" in argv)


def _the_one(wanted: Callable[[list[str]], bool]) -> int:
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            argv = (folder / "cmdline").read_text().split("\0")[:-1]
            if argv and wanted(argv):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    # A child looks like its parent until it has called exec.
    found = [pid for pid, parent in parents.items() if parent not in parents]
    assert len(found) == 1, f"expected one process, found {found}"
    return found[0]


def let_the_bus_die_often() -> None:
    """systemd gives a bus up after five starts in ten seconds, and its socket after twenty activations in two."""
    limits = {
        "dbus.service": "[Unit]\nStartLimitIntervalSec=0\n",
        # No limit at all would let the manager spin for ever on a connection that it cannot serve.
        "dbus.socket": "[Socket]\nTriggerLimitBurst=400\n",
    }
    if systemctl("show", "dbus.socket", "-p", "PollLimitBurst"):  # Not before systemd 255, which alone needs it.
        limits["dbus.socket"] += "PollLimitBurst=300\n"
    for unit, text in limits.items():
        folder = Path(os.environ["XDG_RUNTIME_DIR"]) / f"systemd/user/{unit}.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "50-often.conf").write_text(text)
    systemctl("daemon-reload")


@contextlib.contextmanager
def held_manager() -> Iterator[None]:
    """The manager sleeps while the bus is killed, so that it learns of the dead daemon before it learns of the dead
    connection. The other way round systemd 257 may connect anew to its own socket that nobody serves, and hang there
    for 90 seconds; that race is systemd's, and no user of the bus can do anything about it."""
    pid = manager_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def kill_bus() -> None:
    """SIGKILL, and gone: systemd starts a new one with the next connection."""
    pid = bus_pid()
    fd = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(fd, gone.set)
    try:
        with held_manager():
            os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(gone.wait(), 5)
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def eventually(condition: Callable[[], Awaitable[bool] | bool], timeout: float = 5.0) -> float:
    """Seconds until the condition holds; fails the test when it does not within `timeout`."""
    start = time.perf_counter()
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return time.perf_counter() - start
        assert time.perf_counter() - start < timeout, "the condition did not come to hold in time"
        await asyncio.sleep(0.01)
