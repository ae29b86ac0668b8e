"""What a sandbox needs of the machine, checked before anything is made, with the way to get what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agentd.sandbox import cgroup

MANAGERS = (Path("/usr/lib/systemd/systemd"), Path("/lib/systemd/systemd"))
JOURNALDS = (Path("/usr/lib/systemd/systemd-journald"), Path("/lib/systemd/systemd-journald"))
BUS_UNITS = (Path("/usr/lib/systemd/user/dbus.socket"), Path("/lib/systemd/user/dbus.socket"))
MACHINE_ID = Path("/etc/machine-id")

_CAP_SYS_ADMIN = 21


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that is missing, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}\n  {self.remedy}"


def first(paths: tuple[Path, ...]) -> Path | None:
    return next((p for p in paths if p.exists()), None)


def find_tool(name: str) -> str | None:
    """The program's path; also from the sbin directories, which a user's PATH often leaves out."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin")


def programs() -> list[Lack]:
    lacks = []
    if first(MANAGERS) is None:
        lacks.append(Lack("no systemd on this machine", "apt install systemd"))
    if first(BUS_UNITS) is None or find_tool("dbus-daemon") is None:
        lacks.append(Lack("no session bus for a user manager", "apt install dbus-user-session"))
    if find_tool("unshare") is None:
        lacks.append(Lack("no unshare program", "apt install util-linux"))
    return lacks


def namespaces() -> list[Lack]:
    """Whether this process may make the namespaces; tried for real, since a dozen settings can forbid it."""
    unshare = find_tool("unshare")
    if unshare is None:
        return []
    if os.geteuid() == 0:
        return [] if _capable(_CAP_SYS_ADMIN) else [_unprivileged_root()]
    argv = [unshare, "--user", "--map-current-user", "--keep-caps", "--mount", "--net", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode == 0:
        return []
    return [Lack(f"cannot make a user namespace: {done.stderr.strip() or 'unshare failed'}", _userns_remedy())]


def _unprivileged_root() -> Lack:
    return Lack(
        "root without CAP_SYS_ADMIN (a container?) cannot make namespaces",
        "run the container with --privileged --cgroupns=private, or run the sandbox as an ordinary user on the host",
    )


def _userns_remedy() -> str:
    if _sysctl("user/max_user_namespaces") == "0":
        return "sudo sysctl user.max_user_namespaces=10000, or run it with sudo"
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "sudo sysctl kernel.unprivileged_userns_clone=1, or run it with sudo"
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run it with sudo"
    return "run it with sudo, or outside a container that forbids user namespaces"


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""


def _capable(capability: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> capability & 1)
    return False


def no_cgroup() -> Lack:
    """What to say when there is no cgroup to start from."""
    mount = cgroup.mount_point()
    if mount is None:
        return Lack("no cgroup v2 hierarchy is mounted", "boot with systemd, or mount -t cgroup2 none /sys/fs/cgroup")
    return Lack(
        f"no delegated cgroup: {cgroup.current(mount)} belongs to someone else",
        "log in so that `systemctl --user` works, or run it with sudo; without systemd, as root: mkdir a cgroup, "
        "chown it, its cgroup.procs and its cgroup.subtree_control to your user, and start a shell in it",
    )


def check() -> list[Lack]:
    """Everything but the cgroup that keeps a sandbox from starting; empty when it can."""
    return programs() or namespaces()


def notes(*, bare: bool) -> list[str]:
    """What the sandbox will leave out on this machine."""
    lines = []
    if first(JOURNALDS) is None or not MACHINE_ID.exists():
        lines.append("no journal: systemd-journald or /etc/machine-id is missing (systemd-machine-id-setup makes one)")
    if not bare and find_tool("redis-server") is None:
        lines.append("no redis service: redis-server is not installed (apt install redis-server)")
    return lines
