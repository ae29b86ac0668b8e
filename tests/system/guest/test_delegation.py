"""As root: what a user's manager is given to hand down, before and after `agentctl host-setup`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

MANAGER = Path("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service")
UNIT = Path("/home/ai/.config/systemd/user/reader.service")
CONFIG = Path("/home/ai/.config/agentd/agentd.toml")
LIMIT = "IOReadBandwidthMax=/dev/ubda 1M"


def delegated() -> set[str]:
    return set((MANAGER / "cgroup.controllers").read_text().split())


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def io_limit() -> str | None:
    """Of a service of the user's, started anew; None when its cgroup has no such file."""
    systemctl = ("systemctl", "--user", "--machine=ai@")
    run(*systemctl, "daemon-reload")
    run(*systemctl, "restart", UNIT.name)
    file = MANAGER / f"app.slice/{UNIT.name}/io.max"
    return file.read_text().strip() if file.exists() else None


def own(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    for folder in (path, *path.parents):
        if folder == Path("/home/ai"):
            break
        os.chown(folder, 1000, 1000)


def test_host_setup_delegates_the_controller_that_is_missing() -> None:
    own(UNIT, f"[Service]\nType=exec\nExecStart=/bin/sleep 1000\n{LIMIT}\n")
    own(CONFIG, f'[services.reader]\nunit = "{UNIT.name}"\nhardening.set = {{ IOReadBandwidthMax = "/dev/ubda 1M" }}\n')
    assert delegated() == {"cpu", "memory", "pids"}
    assert io_limit() is None
    agentctl = ("/opt/agentd/venv/bin/agentctl", "host-setup", "--user", "ai")
    assert "delegate.conf" in run(*agentctl)
    run(*agentctl, "--apply", "--restart", "--yes")
    assert delegated() == {"cpu", "io", "memory", "pids"}
    limit = io_limit()
    assert limit is not None
    assert "rbps=1000000" in limit
