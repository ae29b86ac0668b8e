"""The home directory of the sandbox: stand-in programs, and on demand the shipped units with their configuration.

Tests call `install()` inside `agentctl sandbox --bare` to get the whole stack, then `systemctl --user daemon-reload`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from agentd import resources
from agentd.sandbox.standins import behaviour

PACKAGE_PARENT = Path(__file__).resolve().parents[2]
NVML = Path(__file__).resolve().parent / "nvml"
STANDINS = ("vllm", "ollama", "litellm")
MODELS = ("qwen", "dolphin")
API_KEY = "sandbox-key"
LOAD_SECONDS = {"qwen": 1.0, "dolphin": 1.5, "litellm": 0.2, "ollama": 0.5}
_SHEBANG_LIMIT = 120

_SANDBOX_TOML = """\
# The sandbox's own settings, on top of the example stack.

[slots.gpu0]
vram_timeout = "15s"
cooldown = "10s"
sleep_reserve = "256M"
"""
_MODEL_TOML = """
[services.{name}.model]
path = "{home}/models/{name}"
api_key_file = "{home}/.config/agentd/vllm.env"
start_timeout = "20s"
ready_timeout = "30s"

[services.{name}.hardening]
write_paths = ["%t/standin-gpu"]
"""


def install(home: Path | None = None) -> Path:
    """Everything of the sandbox in `home` (this process's own by default), run by this interpreter."""
    home = home or Path.home()
    populate(home, python=os.path.realpath(sys.executable), interpreter=sys.executable, units=True)
    return home


def populate(home: Path, *, python: str, interpreter: str, units: bool) -> None:
    """Write the programs; with `units` also units, configuration, model directories and behaviour files.

    `python` runs the stand-ins (the standard library is enough), `interpreter` runs agentd and agentctl.
    """
    programs(home / ".local/bin", python, interpreter)
    if not units:
        return
    redis = shutil.which("redis-server") is not None
    unit_files(home / ".config/systemd/user", redis=redis)
    configuration(home, redis=redis)
    for name in MODELS:
        model_files(home / "models" / name)
    for name, seconds in LOAD_SECONDS.items():
        behaviour.save(home, name, load_seconds=seconds)


def model_files(directory: Path) -> Path:
    """A model as small as they come, and whole: a configuration, and weights without a tensor."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text('{"architectures": ["StandIn"]}\n')
    (directory / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return directory


def programs(directory: Path, python: str, interpreter: str) -> None:
    """The stand-ins, and agentd and agentctl of this very installation."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in STANDINS:
        _script(directory / name, python, "-IS", f"agentd.sandbox.standins.{name}", "main()")
    _script(directory / "agentd", interpreter, "", "agentd.__main__", "sys.exit(main())")
    _script(directory / "agentctl", interpreter, "", "agentd.cli.main", "sys.exit(main())")


def _script(path: Path, python: str, flags: str, module: str, call: str) -> None:
    """A program like those that pip makes; a shell starts it where the kernel would not take the first line."""
    plain = f"#!{python} {flags}".rstrip()
    if len(plain) > _SHEBANG_LIMIT or " " in python:
        plain = f"#!/bin/sh\n'''exec' \"{python}\" {flags} \"$0\" \"$@\"\n' '''"
    body = f"import sys\nsys.path.append({str(PACKAGE_PARENT)!r})\nfrom {module} import main\n{call}\n"
    path.write_text(f"{plain}\n{body}")
    path.chmod(0o755)


def unit_files(directory: Path, *, redis: bool) -> None:
    """The shipped units as they are; the stand-in NVML comes by a drop-in, as an operator would add something."""
    directory.mkdir(parents=True, exist_ok=True)
    for unit in resources.unit_files():
        if redis or unit.name != "agentd-redis.service":
            shutil.copyfile(unit, directory / unit.name)
    dropin = directory / "agentd.service.d/90-sandbox.conf"
    dropin.parent.mkdir(exist_ok=True)
    dropin.write_text(f'[Service]\nEnvironment="PYTHONPATH={NVML}"\n')


def configuration(home: Path, *, redis: bool) -> None:
    ours, gateway = home / ".config/agentd", home / ".config/litellm"
    for directory in (ours / "config.d", gateway):
        directory.mkdir(parents=True, exist_ok=True)
    stack = resources.example("stack.toml").read_text()
    (ours / "agentd.toml").write_text(stack if redis else without_service(stack, "redis"))
    models = "".join(_MODEL_TOML.format(name=name, home=home) for name in MODELS)
    (ours / "config.d/50-sandbox.toml").write_text(_SANDBOX_TOML + models)
    shutil.copyfile(resources.directory("etc") / "redis.conf", ours / "redis.conf")
    shutil.copyfile(resources.example("litellm.yaml"), gateway / "litellm-unified.yaml")
    for name, key in (("vllm", "VLLM_API_KEY"), ("litellm", "LITELLM_MASTER_KEY")):
        secret = ours / f"{name}.env"
        secret.write_text(f"{key}={API_KEY}\n")
        secret.chmod(0o600)


def without_service(text: str, name: str) -> str:
    """The TOML text without the tables of one service and without dependencies on it."""
    tables = re.split(r"(?m)^(?=\[)", text)
    kept = [t for t in tables if not re.match(rf"\[services\.{name}[.\]]", t)]
    return re.sub(rf'(?m)^depends_on = \["{name}"\]\n', "", "".join(kept))
