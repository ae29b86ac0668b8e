"""The stack of the model tier: the shipped units with a real vLLM, two tiny models, and agentd, in a sandbox."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "a-key-of-the-model-tier"
TIMES: list[tuple[str, float]] = []

Done = subprocess.CompletedProcess[str]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, seconds in TIMES:
        terminalreporter.write_line(f"{what}: {seconds:.1f} s")


@pytest.fixture(scope="session")
def home() -> Path:
    """The sandbox's home; refuses to run anywhere else, since it writes units there."""
    if os.environ.get("AGENTD_SANDBOX") != "1":
        pytest.exit("the model tier runs in the sandbox: tests/model/run", returncode=2)
    return Path(os.environ["HOME"])


@pytest.fixture(scope="session")
def models(home: Path) -> Path:
    """A copy of the models, where the shipped units look for them."""
    target = home / "models"
    shutil.copytree(ROOT / ".cache/vllm/models", target, dirs_exist_ok=True)
    return target


@pytest.fixture(scope="session")
def stack(home: Path, models: Path) -> Iterator[None]:
    """agentd runs, both vLLM units are installed and stopped."""
    programs = home / ".local/bin"
    for name in ("vllm", "agentd", "agentctl"):
        (programs / name).unlink(missing_ok=True)
    venv = ROOT / ".cache/vllm/venv"
    (programs / "vllm").write_text((Path(__file__).parent / "vllm").read_text().replace("@VENV@", str(venv)))
    (programs / "vllm").chmod(0o755)
    settings = home / ".config/agentd"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "agentd.toml").write_text(configuration(models, settings))
    (settings / "vllm.env").write_text(f"VLLM_API_KEY={API_KEY}\n")
    (settings / "vllm.env").chmod(0o600)
    subprocess.run([ROOT / "packaging/install", "--link", "--stack"], check=True)
    subprocess.run(["systemctl", "--user", "start", "agentd.service"], check=True, timeout=60)
    yield
    subprocess.run(
        ["systemctl", "--user", "stop", "agentd.socket", "agentd.service", "vllm-*.service"], check=True, timeout=120
    )


@pytest.fixture
def switch(home: Path, stack: None) -> Callable[..., Done]:
    """switch(model, *options) runs `agentctl switch-model` and notes its time for the summary."""

    def run(name: str, *options: str) -> Done:
        command = [home / ".local/bin/agentctl", "switch-model", name, *options]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
        TIMES.append((f"switch-model {' '.join((name, *options))}, exit {done.returncode}", time.monotonic() - started))
        return done

    return run


def configuration(models: Path, settings: Path) -> str:
    """As in etc/examples/stack.toml, without the services that are no models, and with nothing resident at first."""
    services = [
        f"""
[services.{name}]
role = "model"
unit = "vllm-{name}.service"
url = "http://127.0.0.1:{port}"
gate = true

[services.{name}.model]
slot = "gpu0"
served_name = "{name}"
path = "{models / name}"
api_key_file = "{settings / "vllm.env"}"
"""
        for name, port in (("qwen", 8001), ("dolphin", 8002))
    ]
    return "[slots.gpu0]\n" + "".join(services)
