"""What pid 1 of the sandbox sets up before the manager starts: mounts, cgroups, network, home, environment.

Private inside: /run, /sys/fs/cgroup, /var/log, HOME, the network and the processes. All other files are the machine's
own, read-write, so a checkout, a virtual environment and /tmp are what they are outside.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentd.sandbox import cgroup, gpu, home, kernel, requirements

STATE = Path("/run/agentd-sandbox")
CGROUPS = Path("/sys/fs/cgroup")
HOST = "sandbox"
_RUN_DIRECTORIES = (
    # systemd looks for the first to know that the machine was booted with it; the others are mount points it needs.
    "/run/systemd/system",
    "/run/systemd/unit-root",
    "/run/systemd/mount-rootfs",
    "/run/systemd/propagate",
    "/run/systemd/journal",
    "/run/systemd/journald.conf.d",
    "/run/dbus",
    "/run/lock",
)
_JOURNALD_CONF = """[Journal]
Storage=persistent
SplitMode=uid
ReadKMsg=no
Audit=no
RateLimitIntervalSec=0
ForwardToSyslog=no
ForwardToWall=no
"""
_OUTSIDE_ONLY = frozenset({
    "DBUS_SESSION_BUS_ADDRESS", "DBUS_STARTER_ADDRESS", "DBUS_STARTER_BUS_TYPE", "NOTIFY_SOCKET", "INVOCATION_ID",
    "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "MANAGERPID", "WATCHDOG_USEC", "WATCHDOG_PID",
    "SYSTEMD_EXEC_PID", "SSH_AUTH_SOCK", "SSH_AGENT_PID", "WAYLAND_DISPLAY", "AGENTD_CONFIG_DIR",
})  # fmt: skip
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class World:
    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._plan = plan
        self.uid = os.getuid()
        self.runtime = Path(f"/run/user/{self.uid}")
        self.home = STATE / "home"
        self.gpu = self.runtime / "standin-gpu"
        self.init_group = "init.scope"
        self.manager_group = f"user.slice/user-{self.uid}.slice/user@{self.uid}.service"
        self.command_group = f"user.slice/user-{self.uid}.slice/session-1.scope"
        self.journal = requirements.first(requirements.JOURNALDS) is not None and requirements.MACHINE_ID.exists()

    def prepare(self) -> None:
        self._enter_cgroup()
        kernel.tmpfs("/run")
        for directory in (*_RUN_DIRECTORIES, str(STATE), str(self.runtime)):
            Path(directory).mkdir(parents=True, exist_ok=True)
        self.runtime.chmod(0o700)
        # What a manager of uid 0 puts over hidden paths; on a booted machine the system manager has made it.
        Path("/run/systemd/inaccessible").symlink_to(self.runtime / "systemd/inaccessible")
        STATE.chmod(0o711)
        self._mount_cgroups()
        kernel.loopback_up()
        socket.sethostname(HOST)
        if self.journal:
            self._prepare_journal()
        self._prepare_home()

    def _enter_cgroup(self) -> None:
        """Make our cgroup the root of a cgroup namespace; done while the machine's own tree is still mounted."""
        Path(self._plan["cgroup"], "cgroup.procs").write_text("0")
        kernel.unshare(kernel.CLONE_NEWCGROUP)

    def _mount_cgroups(self) -> None:
        """The tree of a booted machine: journald and agentd tell a process's unit from such a path."""
        # On a machine with cgroup v2 alone the same file system is there already, and the kernel refuses it twice in
        # one place; with something in between it does not.
        kernel.tmpfs(CGROUPS)
        kernel.mount("none", CGROUPS, "cgroup2")
        (CGROUPS / self.init_group).mkdir()
        (CGROUPS / self.init_group / "cgroup.procs").write_text("0")
        for path in (self.manager_group, self.command_group):
            (CGROUPS / path).mkdir(parents=True)
        for path in (".", "user.slice", f"user.slice/user-{self.uid}.slice"):
            cgroup.delegate(CGROUPS / path)

    def _prepare_journal(self) -> None:
        if not requirements.MACHINE_ID.read_text().strip():
            own = STATE / "machine-id"
            own.write_text(uuid.uuid4().hex + "\n")
            kernel.bind(own, requirements.MACHINE_ID)
        kernel.tmpfs("/var/log")
        Path("/var/log/journal").mkdir()
        Path("/run/systemd/journald.conf.d/sandbox.conf").write_text(_JOURNALD_CONF)
        # Without this mark journald keeps to /run, where it has no journal per user.
        Path("/run/systemd/journal/flushed").touch()

    def _prepare_home(self) -> None:
        """HOME is a fresh directory below /home, so that unit directives about homes act as they would on a user's."""
        homes = Path(os.path.realpath("/home"))
        if homes.is_dir():
            self._mirror(homes)
            self.home = _unused(homes / "sandbox")
        self.home.mkdir(mode=0o700, parents=True)
        if self._plan["keep"]:
            kernel.bind(self._plan["keep"], self.home)
        home.populate(
            self.home,
            python=self._plan["python"],
            interpreter=self._plan["interpreter"],
            units=not self._plan["bare"],
        )
        entered = STATE / "environment.json"
        entered.write_text(json.dumps(self.command_env()))
        entered.chmod(0o600)

    def _mirror(self, homes: Path) -> None:
        """A tmpfs over /home that shows every home that was there."""
        stage = STATE / "homes"
        stage.mkdir()
        kernel.tmpfs(stage)
        for entry in homes.iterdir():
            target = stage / entry.name
            if entry.is_symlink():
                target.symlink_to(entry.readlink())
            elif entry.is_dir():
                target.mkdir()
                kernel.bind(entry, target)
        kernel.move(stage, homes)

    def journald_sockets(self) -> list[socket.socket]:
        """The sockets that journald would make, made before it runs: nobody has to wait for it."""
        made = []
        for name, kind in (
            ("stdout", socket.SOCK_STREAM),
            ("socket", socket.SOCK_DGRAM),
            ("dev-log", socket.SOCK_DGRAM),
        ):
            one = socket.socket(socket.AF_UNIX, kind)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            path = Path("/run/systemd/journal", name)
            one.bind(str(path))
            path.chmod(0o666)
            if kind == socket.SOCK_STREAM:
                one.listen(64)
            made.append(one)
        return made

    def notify_socket(self) -> socket.socket:
        """Where the manager says READY=1."""
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(STATE / "notify"))
        return notify

    def journald_argv(self) -> list[str]:
        return [str(requirements.first(requirements.JOURNALDS))]

    def manager_argv(self) -> list[str]:
        target = "journal" if self.journal else "console"
        return [str(requirements.first(requirements.MANAGERS)), "--user", f"--log-target={target}"]

    def manager_log(self) -> str:
        try:
            lines = (STATE / "manager.log").read_text(errors="replace").splitlines()
        except OSError:
            return "it said nothing"
        return " / ".join(lines[-5:]) or "it said nothing"

    def service_env(self) -> dict[str, str]:
        """A small environment, as a login without a shell gives it."""
        kept = {k: os.environ[k] for k in ("LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "SHELL") if k in os.environ}
        return {
            "USER": "root" if self.uid == 0 else "user",
            **kept,
            "HOME": str(self.home),
            "PATH": f"{self.home}/.local/bin:{_SYSTEM_PATH}",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "AGENTD_SANDBOX": "1",
            gpu.ENVIRONMENT: str(self.gpu),
        }

    def manager_env(self) -> dict[str, str]:
        return {**self.service_env(), "NOTIFY_SOCKET": str(STATE / "notify")}

    def command_env(self) -> dict[str, str]:
        """The caller's environment, without what belongs to the session outside."""
        kept = {k: v for k, v in os.environ.items() if k not in _OUTSIDE_ONLY and not k.startswith("XDG_")}
        own = self.service_env()
        return {
            **kept,
            **own,
            "PATH": f"{self.home}/.local/bin:{kept.get('PATH', _SYSTEM_PATH)}",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.runtime}/bus",
        }


def _unused(path: Path) -> Path:
    """The path, or one with a number after it: in a sandbox within a sandbox the outer one's home is there already."""
    candidates = itertools.chain([path], (path.with_name(f"{path.name}{n}") for n in itertools.count(2)))
    return next(p for p in candidates if not p.exists())
