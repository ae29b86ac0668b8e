"""The stack under measurement: the shipped units with stand-in servers, two models more without a readiness gate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agentd.client import Client
from agentd.errors import AgentdError
from agentd.sandbox import home
from agentd.sandbox.standins import behaviour

GATED, PLAIN = ("qwen", "dolphin"), ("falcon", "heron")
PORTS: Mapping[str, int] = {"qwen": 8001, "dolphin": 8002, "falcon": 8003, "heron": 8004}
PATIENCE = 60.0
_SETTINGS = """\
[slots.gpu0]
vram_probe = "none"
evict = []
cooldown = 0
"""
_PLAIN_MODEL = """
[services.{name}]
unit = "vllm-{name}.service"
role = "model"
url = "http://127.0.0.1:{port}"

[services.{name}.model]
slot = "gpu0"
served_name = "{name}"
path = "{home}/models/{name}"
api_key_file = "{home}/.config/agentd/vllm.env"
"""
_OFTEN = "[Unit]\nStartLimitIntervalSec=0\n"


def systemctl(*words: str, check: bool = True) -> str:
    done = subprocess.run(
        ["systemctl", "--user", *words], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if check and done.returncode:
        raise SystemExit(f"bench: systemctl --user {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def properties(unit: str, *names: str) -> dict[str, str]:
    lines = systemctl("show", unit, *(f"-p{name}" for name in names)).splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def monotonic_ms() -> float:
    """On the clock of systemd's ...TimestampMonotonic= properties."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) / 1e6


def unit_of(model: str) -> str:
    return f"vllm-{model}.service"


def until(holds: Callable[[], bool], what: str, pause: float = 0.02) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {what} did not happen within {PATIENCE:g} s")
        time.sleep(pause)


class Rig:
    """One stack in this process's home; `extra` adds the two models without a gate and quick settings."""

    def __init__(self) -> None:
        if os.environ.get("AGENTD_SANDBOX") != "1":
            raise SystemExit("bench: run it as tests/bench/run; it works inside `agentctl sandbox --bare` only")
        self.home = Path.home()
        self.units = self.home / ".config/systemd/user"
        self.agentctl = str(self.home / ".local/bin/agentctl")
        self.client = Client(timeout=PATIENCE)

    def install(self, *, extra: bool, load_seconds: float, restart: str = "") -> None:
        self.remove()
        home.install()
        names = (*GATED, *PLAIN) if extra else GATED
        for name in names:
            # Memory that comes back late would fail the shell loop's starts, and agentd's wait for it is turned off.
            behaviour.save(self.home, name, load_seconds=load_seconds, vram_release_seconds=0.0)
        if extra:
            self._write("config.d/70-bench.toml", _SETTINGS + "".join(map(self._plain_model, PLAIN)))
        service = f"[Service]\n{restart}\n" if restart else ""
        for unit in (*map(unit_of, names), "agentd.service"):
            self._dropin(unit, _OFTEN + (service if unit.startswith("vllm") else ""))
        systemctl("daemon-reload")

    def _plain_model(self, name: str) -> str:
        """A copy of the shipped unit as its first line tells one to make it."""
        unit = (self.units / unit_of("qwen")).read_text()
        (self.units / unit_of(name)).write_text(unit.replace("qwen", name).replace("8001", str(PORTS[name])))
        shutil.copytree(self.home / "models/qwen", self.home / "models" / name, dirs_exist_ok=True)
        return _PLAIN_MODEL.format(name=name, port=PORTS[name], home=self.home)

    def _write(self, name: str, text: str) -> None:
        (self.home / ".config/agentd" / name).write_text(text)

    def _dropin(self, unit: str, text: str) -> None:
        folder = self.units / f"{unit}.d"
        folder.mkdir(exist_ok=True)
        (folder / "95-bench.conf").write_text(text)

    def remove(self) -> None:
        if not self.units.is_dir():
            return
        names = sorted(p.name for p in (*self.units.glob("*.service"), *self.units.glob("*.socket")))
        systemctl("stop", *names, check=False)
        systemctl("kill", "--signal=KILL", *names, check=False)
        for path in (self.units, self.home / ".config/agentd", self.home / ".local/state/agentd", self.home / "models"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(behaviour.directory(self.home), ignore_errors=True)
        systemctl("daemon-reload")
        systemctl("reset-failed")

    # -- agentd -------------------------------------------------------------------------------------------------------

    def start_agentd(self, resident: str | None = None) -> None:
        systemctl("start", "agentd.service")
        self.settled(resident)

    def stop_agentd(self) -> None:
        systemctl("stop", "agentd.service", "agentd.socket")

    def settled(self, resident: str | None) -> None:
        """Until no change runs and the model, if one is named, is the slot's and ready."""
        until(lambda: self._rests(resident), f"a rest with {resident}")

    def _rests(self, resident: str | None) -> bool:
        try:
            status = self.client.get("/v1/status")
        except AgentdError:
            return False
        slot = status["slots"][0]
        health = {s["name"]: s["health"] for s in status["services"]}
        return slot["change"] is None and (
            resident is None or (slot["resident"] == resident and health.get(resident) == "ready")
        )

    def full_stack(self) -> None:
        """Everything that is shipped runs and is ready, as on a machine in use."""
        others = [u for u in ("ollama.service", "agentd-redis.service", "litellm.service") if (self.units / u).exists()]
        systemctl("start", *others)
        self.start_agentd("qwen")
        until(lambda: bool(self.client.get("/v1/status")["ready"]), "a ready stack", 0.1)

    def pid(self, unit: str) -> int:
        return int(properties(unit, "MainPID")["MainPID"])

    def service(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(s for s in self.client.get("/v1/services")["services"] if s["name"] == name)
        return found

    def listening_since(self, invocation: str) -> float | None:
        """When the stand-in wrote that it serves (ms), by journald's clock."""
        argv = ["journalctl", "--no-pager", "-o", "json", f"_SYSTEMD_INVOCATION_ID={invocation}"]
        for line in subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines():
            entry = json.loads(line)
            if "Application startup complete" in str(entry.get("MESSAGE", "")):
                return int(entry["__MONOTONIC_TIMESTAMP"]) / 1000
        return None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def load_average() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg()[:2])
