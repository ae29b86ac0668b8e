"""Services of the tests in the user's manager of the virtual machine, with drop-ins as agentd renders them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentd import paths, resources
from agentd.adapters.config_files import load
from agentd.core.dropin import Purpose
from agentd.core.profile import PURPOSES, desired
from agentd.evidence import HostEvidence
from agentd.types import Scope

INSIDE = Path(__file__).with_name("inside.py")
TIMEOUT = 100
URL = "http://127.0.0.1:9"


def systemctl(*arguments: str, check: bool = True) -> str:
    command = ("systemctl", "--user", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


def show(unit: str, name: str) -> str:
    return systemctl("show", "--timestamp=us", "-P", name, unit)


def write(name: str, text: str) -> Path:
    """Below the unit directory."""
    path = paths.unit_dir() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def limits(unit: str, role: str, folder: Path, config: str = "") -> None:
    """The part of its profile that is not sandbox: a filter of system calls makes everything here much slower."""
    profile(unit, role, folder, config, (Purpose.RESOURCES,))


def profile(unit: str, role: str, folder: Path, config: str = "", purposes: Sequence[Purpose] = PURPOSES) -> None:
    """The unit's drop-ins, as they come from a configuration with this service. `config`: more of its table."""
    source = folder / "config"
    source.mkdir(exist_ok=True)
    (source / "agentd.toml").write_text(f'[services.it]\nunit = "{unit}"\nrole = "{role}"\nurl = "{URL}"\n{config}')
    settings = load([source], home=str(Path.home())).settings
    host = HostEvidence(
        scope=Scope.USER,
        systemd=int(systemctl("--version").split()[1]),
        home=str(Path.home()),
        runtime_dir=os.environ["XDG_RUNTIME_DIR"],
        uid=os.getuid(),
    )
    for dropin in desired(settings, resources.profile_texts(), host):
        if dropin.purpose in purposes:
            write(dropin.path, dropin.text)


class Inside:
    """A service that tries acts of inside.py. `lines` are more of its [Service] section."""

    def __init__(self, name: str, acts: Sequence[str], *lines: str) -> None:
        self.unit = f"{name}.service"
        self._answer = Path(os.environ["XDG_RUNTIME_DIR"]) / f"{name}.json"
        self._answer.unlink(missing_ok=True)
        command = f"/usr/bin/python3 -I {INSIDE} {' '.join(acts)}"
        frame = ("[Service]", "Type=oneshot", f"ExecStart={command}", f"StandardOutput=file:{self._answer}")
        write(self.unit, "\n".join((*frame, *lines, "")))

    def run(self) -> Mapping[str, str]:
        """What it could do; empty when it did not come to the end."""
        systemctl("daemon-reload")
        systemctl("start", self.unit, check=False)
        text = self._answer.read_text() if self._answer.exists() else ""
        return json.loads(text) if text else {}
